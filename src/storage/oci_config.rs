//! The configuration of an OCI image (`config.json`): which layers it has, for which machine it is,
//! and what it says of the program to run. Pure; written by a stranger, so every list is bounded.

use std::collections::BTreeMap;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::digest::hex;
use super::image::{Image, is_digest};
use super::image_config::{HistoryStep, ImageConfig};

/// Most bytes of a configuration or a manifest.
pub(super) const DOCUMENT_MOST: u64 = 4 << 20;
/// Most layers: overlayfs takes no more (OVL_MAX_STACK), less the guest's own.
const LAYERS_MOST: usize = 499;
/// Most entries of a list, and bytes of one of them.
const ITEMS_MOST: usize = 4096;
const ITEM_MOST: usize = 128 << 10;

/// A configuration, its fields checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OciConfig {
    /// SHA-256 of its text, hexadecimal: the image's name.
    pub(super) digest: String,
    /// SHA-256 of the layers' archives, the lowest first.
    pub(super) layers: Vec<String>,
    /// Whether it is for this machine, or why not.
    pub(super) fits: Result<(), String>,
    pub(super) config: ImageConfig,
}

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    config: Option<Run>,
    rootfs: RootFs,
    #[serde(default)]
    history: Option<Vec<Step>>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Run {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Step {
    created: Option<String>,
    created_by: Option<String>,
    comment: Option<String>,
    empty_layer: bool,
}

impl OciConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() as u64 > DOCUMENT_MOST {
            return Err("its configuration has more than 4 MiB".into());
        }
        let written: Written = serde_json::from_slice(text)
            .map_err(|e| format!("its configuration cannot be understood: {e}"))?;
        if written.rootfs.kind != "layers" {
            return Err("its configuration does not say that its root is made of layers".into());
        }
        let fits = fits(&written.os, &written.architecture);
        let diff_ids = written.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.is_empty() || diff_ids.len() > LAYERS_MOST {
            let count = diff_ids.len();
            return Err(format!(
                "it has {count} layers: an image for guests has 1 to {LAYERS_MOST}"
            ));
        }
        let layers = diff_ids
            .iter()
            .map(|id| sha256(id).map(str::to_owned))
            .collect::<Result<_, _>>()?;
        let config = image_config(written.config.unwrap_or_default(), written.history)?;
        Ok(Self {
            digest: hex(&Sha256::digest(text)),
            layers,
            fits,
            config,
        })
    }
}

/// The hexadecimal digits of `sha256:…`.
///
/// # Errors
/// It is no such digest.
pub(super) fn sha256(text: &str) -> Result<&str, String> {
    let hex = text.strip_prefix("sha256:").filter(|hex| is_digest(hex));
    hex.ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        format!("{shown:?} is no digest of the form sha256: and 64 of 0-9a-f")
    })
}

/// What OCI calls the architecture of this machine.
pub(super) fn this_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn fits(os: &str, architecture: &str) -> Result<(), String> {
    // What names none was written by hand, for whoever uses it.
    let os_fits = os.is_empty() || os == "linux";
    let here = this_architecture();
    if os_fits && (architecture.is_empty() || architecture == here) {
        return Ok(());
    }
    let shown = |text: &str| text.chars().take(20).collect::<String>();
    Err(format!(
        "it is for {}/{}, and this machine is linux/{here}",
        shown(os),
        shown(architecture)
    ))
}

fn image_config(run: Run, history: Option<Vec<Step>>) -> Result<ImageConfig, String> {
    let config = ImageConfig {
        user: run.user.unwrap_or_default(),
        environment: run.env.unwrap_or_default(),
        directory: run.working_dir.unwrap_or_default(),
        entrypoint: run.entrypoint.unwrap_or_default(),
        command: run.cmd.unwrap_or_default(),
        stop_signal: run.stop_signal.unwrap_or_default(),
        ports: run.exposed_ports.unwrap_or_default().into_keys().collect(),
        volumes: run.volumes.unwrap_or_default().into_keys().collect(),
        labels: run.labels.unwrap_or_default(),
        history: history
            .unwrap_or_default()
            .into_iter()
            .map(|step| HistoryStep {
                created: step.created.unwrap_or_default(),
                created_by: step.created_by.unwrap_or_default(),
                comment: step.comment.unwrap_or_default(),
                empty_layer: step.empty_layer,
            })
            .collect(),
    };
    bounded(&config)?;
    if !config.directory.is_empty() && !config.directory.starts_with('/') {
        return Err(format!(
            "its working folder {:?} is not absolute",
            config.directory
        ));
    }
    if let Some(odd) = config.environment.iter().find(|v| !is_variable(v)) {
        return Err(format!("{odd:?} in its environment is no NAME=VALUE"));
    }
    Ok(config)
}

fn is_variable(text: &str) -> bool {
    text.split_once('=')
        .is_some_and(|(name, _)| !name.is_empty())
}

/// No list and no text beyond bounds; no NUL, which ends a text for the kernel.
fn bounded(config: &ImageConfig) -> Result<(), String> {
    let lists = [
        &config.environment,
        &config.entrypoint,
        &config.command,
        &config.ports,
        &config.volumes,
    ];
    let long = lists.iter().any(|list| list.len() > ITEMS_MOST)
        || config.labels.len() > ITEMS_MOST
        || config.history.len() > ITEMS_MOST;
    if long {
        return Err(format!(
            "its configuration has a list of more than {ITEMS_MOST} entries"
        ));
    }
    let single = [&config.user, &config.directory, &config.stop_signal];
    let texts = lists.iter().flat_map(|list| list.iter()).chain(single);
    for text in texts {
        if text.len() > ITEM_MOST {
            return Err(format!(
                "its configuration has a text of more than {ITEM_MOST} bytes"
            ));
        }
        if text.contains('\0') {
            return Err("its configuration has a text with a zero byte".into());
        }
    }
    Ok(())
}

/// Whether the record of an image says what its configuration says.
///
/// # Errors
/// What is different.
pub(super) fn unlike(image: &Image) -> Result<(), String> {
    let path = image.path.join("config.json");
    let text = crate::kernel::file::read_small(&path, DOCUMENT_MOST)
        .map_err(|e| e.to_string())?
        .ok_or_else(|| format!("{} is not there", path.display()))?;
    let written = OciConfig::parse(&text)?;
    let top_first: Vec<String> = written.layers.iter().rev().cloned().collect();
    if written.digest != image.digest {
        return Err(format!("{} is not what it was made of", path.display()));
    }
    if top_first != image.layers || image.config.as_ref() != Some(&written.config) {
        return Err("its record does not say what its configuration says".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(config: &serde_json::Value, ids: &[String]) -> Vec<u8> {
        serde_json::json!({
            "architecture": this_architecture(), "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": ids},
        })
        .to_string()
        .into_bytes()
    }

    fn id(digit: char) -> String {
        let hex: String = std::iter::repeat_n(digit, 64).collect();
        format!("sha256:{hex}")
    }

    #[test]
    fn what_it_says_is_kept() {
        let config = serde_json::json!({
            "User": "web", "Env": ["A=b"], "Cmd": ["x"], "WorkingDir": "/srv", "Entrypoint": null,
            "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT", "Labels": {"a": "b"},
        });
        let read = OciConfig::parse(&with(&config, &[id('a'), id('b')])).unwrap();
        assert_eq!(read.fits, Ok(()));
        assert_eq!(read.layers, [&id('a')[7..], &id('b')[7..]]);
        assert_eq!(read.config.user, "web");
        assert_eq!(read.config.argv(), ["x"]);
        assert_eq!(read.config.ports, ["80/tcp"]);
        let none = OciConfig::parse(&with(&serde_json::Value::Null, &[id('a')])).unwrap();
        assert_eq!(none.config, ImageConfig::default());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |text: &[u8], why: &str| {
            let error = OciConfig::parse(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        };
        let ok = [id('a')];
        refused(b"{", "cannot be understood");
        refused(&with(&serde_json::json!({}), &[]), "0 layers");
        refused(
            &with(&serde_json::json!({}), &vec![id('a'); 500]),
            "500 layers",
        );
        refused(
            &with(&serde_json::json!({}), &["sha256:../../x".into()]),
            "no digest",
        );
        refused(
            &with(&serde_json::json!({"Env": ["novalue"]}), &ok),
            "NAME=VALUE",
        );
        refused(
            &with(&serde_json::json!({"WorkingDir": "srv"}), &ok),
            "not absolute",
        );
        refused(
            &with(&serde_json::json!({"Cmd": ["a\u{0}b"]}), &ok),
            "zero byte",
        );
        refused(
            &with(&serde_json::json!({"Cmd": vec!["a"; 5000]}), &ok),
            "more than 4096",
        );
        refused(&vec![b' '; (4 << 20) + 1], "4 MiB");
        let other = serde_json::json!({
            "os": "windows", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": ok},
        });
        let read = OciConfig::parse(other.to_string().as_bytes()).unwrap();
        assert!(read.fits.unwrap_err().contains("windows/amd64"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            data in proptest::collection::vec(any::<u8>(), 0..200),
            at in any::<usize>(),
        ) {
            let mut text = with(&serde_json::json!({"Cmd": ["x"]}), &[id('a')]);
            let at = at % text.len();
            let end = (at + data.len()).min(text.len());
            text.splice(at..end, data.iter().copied());
            OciConfig::parse(&text).ok();
            OciConfig::parse(&data).ok();
        }
    }
}
