//! The text of a flag to a change of the definition, and back. What the change does to a text is
//! done next door in `edit`.

use toml_edit::{Array, InlineTable, Value};

use super::edit::{Change, edit};
use super::key::{Key, KeyError, KeyPath, Kind};
use super::nic;
use super::word::quoted;
use crate::model::{BindMount, BlockLimit, Device, Tmpfs};

impl Key {
    /// The changes that the texts of one flag ask for, in order. Each text is one `--FLAG TEXT`.
    ///
    /// # Errors
    /// The first text that is no value of the setting.
    pub fn changes<S: AsRef<str>>(
        &'static self,
        texts: &[S],
    ) -> Result<Vec<(KeyPath, Change)>, KeyError> {
        let wrong = |message| KeyError::Value {
            flag: self.flag,
            message,
        };
        let mut changes = Vec::new();
        if self.kind == Kind::List {
            let words = texts
                .iter()
                .flat_map(|text| text.as_ref().split_whitespace());
            let list: Array = words.collect();
            changes.push((None, Value::Array(list)));
        } else {
            for text in texts {
                changes.push(one(self.kind, text.as_ref()).map_err(wrong)?);
            }
        }
        let changes: Vec<(KeyPath, Change)> = changes
            .into_iter()
            .map(|(item, value)| (KeyPath { key: self, item }, Change::Set(value)))
            .collect();
        // The file's own reader is the judge: a flag takes what the file takes.
        for change in &changes {
            edit("", std::slice::from_ref(change)).map_err(|error| {
                let message = error.faults.into_iter().next().map(|fault| fault.message);
                let message = message.unwrap_or_default();
                // The flag says which setting it is.
                let named = [change.0.to_string(), self.path.to_owned()].into_iter();
                let mut bare = named.filter_map(|path| message.strip_prefix(&format!("{path}: ")));
                wrong(bare.next().unwrap_or(&message).to_owned())
            })?;
        }
        Ok(changes)
    }
}

type Item = (Option<String>, Value);

fn one(kind: Kind, text: &str) -> Result<Item, String> {
    Ok(match kind {
        Kind::Text | Kind::List => (None, text.into()),
        Kind::Number => (None, number(text)),
        Kind::Switch => (
            None,
            text.parse::<bool>()
                .map_or_else(|_| text.into(), Value::from),
        ),
        Kind::Words => (Some(text.to_owned()), text.into()),
        Kind::Map => {
            let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
            let (name, value) =
                pair.ok_or_else(|| format!("{}: write NAME=VALUE", quoted(text)))?;
            (Some(name.to_owned()), value.into())
        }
        Kind::Mount => mount(text)?,
        Kind::Tmpfs => tmpfs(text)?,
        Kind::Device => device(text)?,
        Kind::IoLimit => io_limit(text)?,
        Kind::Nic => nic::item(text)?,
    })
}

/// A number as TOML's own if it is one, else text with its unit.
fn number(text: &str) -> Value {
    let plain = !text.is_empty()
        && text.len() <= 15
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if let Ok(whole) = text.parse::<i64>() {
        return whole.into();
    }
    match text.parse::<f64>() {
        Ok(decimal) if plain => decimal.into(),
        _ => text.into(),
    }
}

fn mount(text: &str) -> Result<Item, String> {
    let usage = || {
        format!(
            "{}: write SOURCE:TARGET, then :ro or :noidmap if wanted",
            quoted(text)
        )
    };
    let mut parts = text.split(':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
        return Err(usage());
    };
    let mut table = InlineTable::new();
    table.insert("source", source.into());
    table.insert("target", target.into());
    for option in parts.flat_map(|part| part.split(',')) {
        match option {
            "ro" => table.insert("read_only", true.into()),
            "rw" => table.insert("read_only", false.into()),
            "idmap" => table.insert("idmap", true.into()),
            "noidmap" => table.insert("idmap", false.into()),
            _ => return Err(usage()),
        };
    }
    Ok((Some(target.to_owned()), table.into()))
}

fn tmpfs(text: &str) -> Result<Item, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let names = ["target", "size", "mode"];
    if parts.len() > names.len() {
        return Err(format!(
            "{}: write TARGET, TARGET:SIZE or TARGET:SIZE:MODE",
            quoted(text)
        ));
    }
    let mut table = InlineTable::new();
    for (name, part) in names.into_iter().zip(&parts) {
        table.insert(name, (*part).into());
    }
    Ok((Some(parts[0].to_owned()), table.into()))
}

fn device(text: &str) -> Result<Item, String> {
    let mut table = InlineTable::new();
    let (path, access) = match text.rsplit_once(':') {
        Some((path, access)) => (path, Some(access)),
        None => (text, None),
    };
    table.insert("path", path.into());
    if let Some(access) = access {
        table.insert("access", access.into());
    }
    Ok((Some(path.to_owned()), table.into()))
}

fn io_limit(text: &str) -> Result<Item, String> {
    let usage = || {
        format!(
            "{}: write DEVICE:read=10M,write=5M,read_iops=100",
            quoted(text)
        )
    };
    let (device, limits) = text.rsplit_once(':').ok_or_else(usage)?;
    let mut table = InlineTable::new();
    table.insert("device", device.into());
    for limit in limits.split(',') {
        let (name, value) = limit.split_once('=').ok_or_else(usage)?;
        if name == "device" || table.contains_key(name) {
            return Err(usage());
        }
        table.insert(name, number(value));
    }
    Ok((Some(device.to_owned()), table.into()))
}

/// The text with which `--mount` asks for this.
pub(super) fn mount_text(mount: &BindMount) -> String {
    let read_only = if mount.read_only { ":ro" } else { "" };
    let idmap = if mount.idmap { "" } else { ":noidmap" };
    format!(
        "{}:{}{read_only}{idmap}",
        mount.source.display(),
        mount.target.display()
    )
}

/// The text with which `--tmpfs` asks for this.
pub(super) fn tmpfs_text(tmpfs: &Tmpfs) -> String {
    format!("{}:{}:{:o}", tmpfs.target.display(), tmpfs.size, tmpfs.mode)
}

/// The text with which `--device` asks for this.
pub(super) fn device_text(device: &Device) -> String {
    format!("{}:{}", device.path.display(), device.access)
}

/// The text with which `--io-limit` asks for this.
pub(super) fn io_limit_text(limit: &BlockLimit) -> String {
    let limits = [
        ("read", limit.read.map(|b| b.to_string())),
        ("write", limit.write.map(|b| b.to_string())),
        ("read_iops", limit.read_iops.map(|n| n.to_string())),
        ("write_iops", limit.write_iops.map(|n| n.to_string())),
    ];
    let limits: Vec<String> = limits
        .into_iter()
        .filter_map(|(name, n)| n.map(|n| format!("{name}={n}")))
        .collect();
    format!("{}:{}", limit.device.display(), limits.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(path: &str, flags: &[&str]) -> Result<String, String> {
        let key = Key::find(path).unwrap();
        let changes = key.changes(flags).map_err(|e| e.to_string())?;
        edit("", &changes).map_err(|e| e.to_string())
    }

    #[test]
    fn flags_become_lines() {
        for (path, flags, text) in [
            ("cpu.limit", &["1.50"][..], "[cpu]\nlimit = 1.5\n"),
            ("memory.limit", &["1G"], "[memory]\nlimit = \"1G\"\n"),
            ("processes", &["64"], "processes = 64\n"),
            (
                "profiles",
                &["small", "hardened"],
                "profiles = [\"small\", \"hardened\"]\n",
            ),
            ("template", &["debian"], "template = \"debian\"\n"),
            (
                "environment",
                &["A=B=C", "D="],
                "[environment]\nA = \"B=C\"\nD = \"\"\n",
            ),
            (
                "security.add",
                &["BPF", "bpf"],
                "[security]\nadd = [\"BPF\"]\n",
            ),
            (
                "init.command",
                &["/bin/sh -c true"],
                "[init]\ncommand = [\"/bin/sh\", \"-c\", \"true\"]\n",
            ),
            (
                "mount",
                &["/a:/b:ro"],
                "[[mount]]\nsource = \"/a\"\ntarget = \"/b\"\nread_only = true\n",
            ),
            (
                "tmpfs",
                &["/tmp:64M"],
                "[[tmpfs]]\ntarget = \"/tmp\"\nsize = \"64M\"\n",
            ),
            (
                "device",
                &["/dev/fuse:rwm"],
                "[[device]]\npath = \"/dev/fuse\"\naccess = \"rwm\"\n",
            ),
            (
                "sysctls",
                &["net.ipv4.ip_forward=1"],
                "[sysctls]\n\"net.ipv4.ip_forward\" = \"1\"\n",
            ),
            (
                "io.device",
                &["/dev/vda:read=10M,read_iops=100"],
                "[[io.device]]\ndevice = \"/dev/vda\"\nread = \"10M\"\nread_iops = 100\n",
            ),
        ] {
            assert_eq!(text_of(path, flags).as_deref(), Ok(text), "{path}");
        }
    }

    #[test]
    fn wrong_flags_are_named() {
        for (path, flag, error) in [
            (
                "memory.limit",
                "lots",
                "--memory: \"lots\" is not an amount of memory",
            ),
            ("cpu.limit", "0", "--cpus: \"0\" is not a number of CPUs"),
            ("labels", "team", "--label: \"team\": write NAME=VALUE"),
            ("mount", "/a", "--mount: \"/a\": write SOURCE:TARGET"),
            (
                "mount",
                "/a:/b:rx",
                "--mount: \"/a:/b:rx\": write SOURCE:TARGET",
            ),
            (
                "io.device",
                "/dev/vda:raed=1",
                "--io-limit: unknown key \"raed\"",
            ),
            (
                "memory.oom_group",
                "yes",
                "--oom-group: \"yes\" is neither true nor false",
            ),
            (
                "security.drop",
                "SYS_ADMN",
                "--cap-drop: \"SYS_ADMN\" is not a capability",
            ),
            (
                "description",
                "a\nb",
                "--description: a value has the control character",
            ),
            (
                "processes",
                "-1",
                "--processes: \"-1\" is not a whole number from 0 to 4294967295",
            ),
            (
                "rlimits",
                "nofile=9:1",
                "--rlimit: \"9:1\": what is in force is above its ceiling",
            ),
        ] {
            let found = text_of(path, &[flag]).unwrap_err();
            assert!(found.starts_with(error), "{found}");
        }
    }
}
