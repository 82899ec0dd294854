//! A container's groups as a transient scope of systemd's: the unit is made around the container's
//! first process, its limits are changed, it is stopped. With it the folders come and go; what
//! systemd has no word for is written by `container_write` as everywhere. Our guests have one service
//! for all of them: see `service`.

use zbus::zvariant::{OwnedObjectPath, Value};

use super::{CgroupError, Result};
use crate::kernel::bus::{self, Bus, Incoming, Refusal};
use crate::model::{SystemdScope, UnitValue};

type Property<'a> = (&'a str, Value<'a>);

/// Makes the scope with process `pid` in it, and waits until systemd has moved it there. A failed
/// unit of that name, left by an earlier container, is cleared away first.
///
/// # Errors
/// [`CgroupError::Scope`] when systemd cannot be reached, has a running unit of that name, or does
/// not know a property.
pub fn start_scope(scope: &SystemdScope, pid: u32) -> Result<()> {
    let failed = |said: String| failure(scope, "start", said);
    if !bus::has_systemd() {
        let said = "systemd does not run here; leave out --systemd-cgroup".to_owned();
        return Err(failed(said));
    }
    let mut bus = Bus::systemd().map_err(|e| failed(e.to_string()))?;
    let mut properties: Vec<Property<'_>> = vec![
        ("Description", Value::from(scope.description.as_str())),
        ("Slice", Value::from(scope.slice.as_str())),
        ("PIDs", Value::from(vec![pid])),
    ];
    properties.extend(scope.properties.iter().map(|(n, v)| (n.as_str(), value(v))));
    let companions: Vec<(&str, Vec<Property<'_>>)> = Vec::new();
    let body = (scope.unit.as_str(), "replace", properties, companions);
    let mut ask = || {
        bus.manager("StartTransientUnit", &body)
            .map_err(|e| failed(e.to_string()))
    };
    let answer = match ask()? {
        Err(refusal) if refusal.name.ends_with(".UnitExists") => {
            let _not_failed = bus.manager("ResetFailedUnit", &(scope.unit.as_str(),));
            bus.manager("StartTransientUnit", &body)
                .map_err(|e| failed(e.to_string()))?
        }
        answer => answer,
    };
    match finish(&mut bus, scope, "start", answer)?.as_str() {
        "done" => Ok(()),
        result => {
            let _gone = bus.manager("ResetFailedUnit", &(scope.unit.as_str(),));
            Err(failed(format!("the job ended as {result:?}")))
        }
    }
}

/// Tells systemd of changed limits, until the scope ends. A scope that systemd knows no more (it can
/// lose one while it reads its units again) needs none: nobody writes the old ones back.
///
/// # Errors
/// [`CgroupError::Scope`] when systemd refuses.
pub fn change_scope(scope: &SystemdScope) -> Result<()> {
    if scope.properties.is_empty() {
        return Ok(());
    }
    let failed = |said: String| failure(scope, "change", said);
    let mut bus = Bus::systemd().map_err(|e| failed(e.to_string()))?;
    let properties: Vec<Property<'_>> = scope
        .properties
        .iter()
        .map(|(n, v)| (n.as_str(), value(v)))
        .collect();
    let body = (scope.unit.as_str(), true, properties);
    match bus.manager("SetUnitProperties", &body) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(refusal)) if is_gone(&refusal) => Ok(()),
        Ok(Err(refusal)) => Err(failed(words(&refusal))),
        Err(e) => Err(failed(e.to_string())),
    }
}

/// Stops the scope, with what still runs in it, and has systemd forget it. One that is gone is fine.
///
/// # Errors
/// [`CgroupError::Scope`] when systemd cannot be reached or refuses.
pub fn stop_scope(scope: &SystemdScope) -> Result<()> {
    let failed = |said: String| failure(scope, "stop", said);
    let mut bus = Bus::systemd().map_err(|e| failed(e.to_string()))?;
    let answer = bus
        .manager("StopUnit", &(scope.unit.as_str(), "replace"))
        .map_err(|e| failed(e.to_string()))?;
    if !matches!(&answer, Err(refusal) if is_gone(refusal)) {
        finish(&mut bus, scope, "stop", answer)?;
    }
    // Only a failed one is still known; for any other this is refused.
    let _forgotten = bus.manager("ResetFailedUnit", &(scope.unit.as_str(),));
    Ok(())
}

/// Waits for the job that an answer names.
fn finish(
    bus: &mut Bus,
    scope: &SystemdScope,
    verb: &'static str,
    answer: std::result::Result<Incoming, Refusal>,
) -> Result<String> {
    let answer = answer.map_err(|refusal| failure(scope, verb, words(&refusal)))?;
    let job: OwnedObjectPath = answer
        .read()
        .map_err(|e| failure(scope, verb, e.to_string()))?;
    bus.job_result(job.as_str())
        .map_err(|e| failure(scope, verb, e.to_string()))
}

fn is_gone(refusal: &Refusal) -> bool {
    refusal.name.ends_with(".NoSuchUnit")
}

fn words(refusal: &Refusal) -> String {
    match refusal.name.rsplit('.').next() {
        Some("UnitExists") => "a unit of that name runs already: another container has this \
                               cgroupsPath"
            .to_owned(),
        _ if refusal.said.is_empty() => refusal.name.clone(),
        _ => refusal.said.clone(),
    }
}

fn failure(scope: &SystemdScope, verb: &'static str, said: String) -> CgroupError {
    CgroupError::Scope {
        verb,
        unit: scope.unit.clone(),
        said,
    }
}

fn value(value: &UnitValue) -> Value<'_> {
    match value {
        UnitValue::Bool(v) => Value::from(*v),
        UnitValue::I32(v) => Value::from(*v),
        UnitValue::U32(v) => Value::from(*v),
        UnitValue::I64(v) => Value::from(*v),
        UnitValue::U64(v) => Value::from(*v),
        UnitValue::Double(v) => Value::from(*v),
        UnitValue::Text(v) => Value::from(v.as_str()),
        UnitValue::Bytes(v) => Value::from(v.clone()),
        UnitValue::U32s(v) => Value::from(v.clone()),
        UnitValue::Texts(v) => Value::from(v.clone()),
    }
}
