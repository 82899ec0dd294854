//! The filter of a container's processes: made from its rules, or at hand because the same rules were
//! met before; then what its client left of them need not be looked at.

use oci_spec::runtime::{LinuxSeccomp, Spec};

use super::step::OutsideStep;
use crate::model::FilterFlags;
use crate::plan::PlanError;
use crate::plan::seccomp::{flags_of, to_filter};
use crate::plan::step::HostStep;

pub(super) fn seccomp(spec: &Spec) -> Option<&LinuxSeccomp> {
    spec.linux().as_ref().and_then(|l| l.seccomp().as_ref())
}

/// The step that has the program ready.
pub(super) fn ready(spec: &Spec, known: bool) -> Result<Option<HostStep>, PlanError> {
    let Some(seccomp) = seccomp(spec) else {
        return Ok(None);
    };
    Ok(Some(match known {
        true => HostStep::Container(OutsideStep::TakeFilter),
        false => HostStep::PrepareFilter {
            filter: Box::new(to_filter(seccomp)?),
        },
    }))
}

/// How it is loaded, if there is one.
pub(super) fn flags(spec: &Spec) -> Option<FilterFlags> {
    seccomp(spec).map(flags_of)
}
