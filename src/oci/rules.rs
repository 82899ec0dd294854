//! The rules for system calls are most of a configuration's text, and the same for nearly every
//! container of an engine. Where they were met before, the configuration is read without them, and
//! the program that was made of them is taken from where it is kept (`kernel::seccomp`).

use std::path::Path;

use oci_spec::runtime::Spec;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::dialect;
use crate::kernel::seccomp::Program;
use crate::plan::seccomp::READER;

/// Rules that are longer are read each time.
const LONGEST: usize = 128 << 10;

/// A configuration, and its filter as far as it is known.
#[derive(Debug)]
pub(super) struct Config {
    /// Without rules for system calls, if `filter` is known.
    pub(super) spec: Spec,
    /// What of it is ignored.
    pub(super) warnings: Vec<String>,
    /// What stands for its filter.
    pub(super) rules: Option<Vec<u8>>,
    /// The program made of it before.
    pub(super) filter: Option<Program>,
}

impl Config {
    /// Reads a configuration; programs are kept in `cache`.
    pub(super) fn read(text: &[u8], cache: &Path) -> serde_json::Result<Self> {
        let mut known = None;
        if let Some((short, rules)) = without_rules(text)
            && let Ok((mut spec, mut warnings)) = dialect::parse::<Spec>(&short)
        {
            dialect::without_empty_limits(&mut spec, &short);
            warnings.extend(dialect::without_meaning(&spec));
            let rules = stand_for(&spec, rules);
            // Where a listener decides, the plan depends on the rules.
            let filter = Program::recall(cache, &rules).filter(|program| !program.notifies());
            if filter.is_some() {
                return Ok(Self {
                    spec,
                    warnings,
                    rules: None,
                    filter,
                });
            }
            known = Some(rules);
        }
        let (mut spec, mut warnings) = dialect::parse(text)?;
        dialect::without_empty_limits(&mut spec, text);
        warnings.extend(dialect::without_meaning(&spec));
        Ok(Self {
            spec,
            warnings,
            rules: known,
            filter: None,
        })
    }
}

/// The text with no rules, and the rules.
fn without_rules(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    #[derive(Deserialize)]
    struct Top<'a> {
        #[serde(borrow)]
        linux: Linux<'a>,
    }
    #[derive(Deserialize)]
    struct Linux<'a> {
        #[serde(borrow)]
        seccomp: Seccomp<'a>,
    }
    #[derive(Deserialize)]
    struct Seccomp<'a> {
        #[serde(borrow)]
        syscalls: &'a RawValue,
    }
    let top: Top<'_> = serde_json::from_slice(text).ok()?;
    let rules = top.linux.seccomp.syscalls.get().as_bytes();
    let at = rules.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
    let (before, after) = (text.get(..at)?, text.get(at + rules.len()..)?);
    let list = rules.first() == Some(&b'[') && rules.len() <= LONGEST;
    list.then(|| ([before, b"[]", after].concat(), rules))
}

/// Everything that a filter is made from.
fn stand_for(spec: &Spec, rules: &[u8]) -> Vec<u8> {
    let linux = spec.linux().as_ref();
    let rest = serde_json::to_vec(&linux.and_then(|l| l.seccomp().as_ref()));
    [&READER.to_ne_bytes(), &rest.unwrap_or_default()[..], rules].concat()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::plan::seccomp::to_filter;

    const TEXT: &str = r#"{"ociVersion": "1.0.2", "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}},
        "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "sys\u0063alls":
        [{"names": ["read", "]}"], "action": "SCMP_ACT_ALLOW"}], "flags": ["SECCOMP_FILTER_FLAG_LOG"]}}}"#;

    /// A folder that goes when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            Self(std::env::temp_dir().join(format!("bulkhead-rules-{}-{n}", std::process::id())))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    fn compile(folder: &Path, config: &Config) -> Program {
        let seccomp = config.spec.linux().as_ref().unwrap().seccomp();
        let filter = to_filter(seccomp.as_ref().unwrap()).unwrap();
        let rules = config.rules.as_deref();
        Program::cached(folder, &filter, rules).unwrap().0
    }

    #[test]
    fn rules_that_were_met_are_not_read_again() {
        let folder = Folder::new();
        let first = Config::read(TEXT.as_bytes(), &folder.0).unwrap();
        assert!(first.filter.is_none());
        let made = compile(&folder.0, &first);
        let again = Config::read(TEXT.as_bytes(), &folder.0).unwrap();
        assert_eq!(again.filter, Some(made));
        let seccomp = again.spec.linux().as_ref().unwrap().seccomp().as_ref();
        let seccomp = seccomp.unwrap();
        assert_eq!(seccomp.syscalls().as_ref().map(Vec::len), Some(0));
        assert_eq!(seccomp.flags().as_ref().map(Vec::len), Some(1));
    }

    #[test]
    fn whatever_else_decides_makes_another_filter() {
        let folder = Folder::new();
        let first = Config::read(TEXT.as_bytes(), &folder.0).unwrap();
        compile(&folder.0, &first);
        for (from, to) in [
            ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL"),
            ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG"),
            ("\"read\"", "\"write\""),
            (
                "\"flags\"",
                "\"architectures\": [\"SCMP_ARCH_X86\"], \"flags\"",
            ),
        ] {
            let text = TEXT.replace(from, to);
            assert_ne!(text, TEXT);
            let other = Config::read(text.as_bytes(), &folder.0).unwrap();
            assert_eq!(other.filter, None, "{to}");
        }
    }

    #[test]
    fn where_a_listener_decides_the_rules_are_read() {
        let folder = Folder::new();
        let text = TEXT.replace("SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY");
        compile(
            &folder.0,
            &Config::read(text.as_bytes(), &folder.0).unwrap(),
        );
        let again = Config::read(text.as_bytes(), &folder.0).unwrap();
        assert_eq!(again.filter, None);
        let seccomp = again.spec.linux().as_ref().unwrap().seccomp();
        let rules = seccomp.as_ref().unwrap().syscalls();
        assert_eq!(rules.as_ref().map(Vec::len), Some(1));
    }

    #[test]
    fn what_is_odd_or_wrong_is_read_whole() {
        let folder = Folder::new();
        for text in [
            TEXT.replace("\"linux\"", "\"linux\": {}, \"linux\""),
            TEXT.replace("\"flags\"", "\"syscalls\": [], \"flags\""),
            TEXT.replace("[\"read\"", "[5"),
            TEXT.replace("[{", "{"),
            TEXT.replace("}}}", "}}"),
        ] {
            let plain = dialect::parse::<Spec>(text.as_bytes());
            let config = Config::read(text.as_bytes(), &folder.0);
            match (plain, config) {
                (Ok((plain, _)), Ok(config)) => assert_eq!(config.spec, plain, "{text}"),
                (Err(plain), Err(error)) => assert_eq!(error.to_string(), plain.to_string()),
                (plain, config) => panic!("{text}: {plain:?} {config:?}"),
            }
        }
        let none = Config::read(br#"{"ociVersion": "1.0.2"}"#, &folder.0).unwrap();
        assert!(none.rules.is_none() && none.filter.is_none());
    }
}
