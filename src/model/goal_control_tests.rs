//! The controller on a simulated host: guests want CPU time, get what their limit and the host give,
//! and every decision takes effect at once.

use proptest::prelude::*;

use super::*;

/// Milliseconds between two looks.
const TICK: u64 = 250;
const CAPACITY: u64 = 400;

struct Host {
    control: Control,
    seen: BTreeMap<GuestName, Seen>,
    now: u64,
    /// Each change: when, whose, from what to what.
    log: Vec<(u64, GuestName, u64, u64)>,
}

fn name(text: &str) -> GuestName {
    text.parse().unwrap()
}

fn guest(policy: Policy, entitled: u64, most: u64) -> Seen {
    Seen {
        policy,
        priority: 100,
        limit: most,
        bounds: (entitled.max(STEP), most),
        entitled,
        used: 0,
        firm: false,
        waiting: 0,
        metric: None,
    }
}

impl Host {
    fn new(guests: &[(&str, Seen)]) -> Self {
        Self {
            control: Control::default(),
            seen: guests
                .iter()
                .map(|(n, seen)| (name(n), seen.clone()))
                .collect(),
            now: 0,
            log: Vec::new(),
        }
    }

    /// So long with these demands.
    fn run(&mut self, ms: u64, wants: &dyn Fn(&str, u64) -> u64) {
        let until = self.now + ms;
        while self.now < until {
            self.now += TICK;
            for (name, one) in &mut self.seen {
                let want = wants(name.as_str(), self.now);
                one.used = want.min(one.limit);
                one.waiting = if want > one.limit {
                    (want - one.limit) * 100 / want
                } else {
                    0
                };
                // Something like an answer's time: longer the fuller.
                one.metric = Some(want as f64 * 10.0 / one.limit as f64);
            }
            for (name, change) in self.control.decide(self.now, CAPACITY, &self.seen) {
                let one = self.seen.get_mut(&name).unwrap();
                assert!(
                    (one.bounds.0..=one.bounds.1).contains(&change.to),
                    "{name}: {change:?}"
                );
                assert!(
                    change.to >= one.entitled.min(one.bounds.1),
                    "{name}: {change:?}"
                );
                assert!(!change.cause.is_empty() && change.to != one.limit);
                self.log
                    .push((self.now, name.clone(), one.limit, change.to));
                one.limit = change.to;
            }
        }
    }

    fn limit(&self, guest: &str) -> u64 {
        self.seen[&name(guest)].limit
    }

    /// How often a guest's limit turned round.
    fn turns(&self, guest: &str) -> usize {
        let ups: Vec<bool> = self
            .log
            .iter()
            .filter(|(_, n, ..)| n.as_str() == guest)
            .map(|(_, _, from, to)| to > from)
            .collect();
        ups.windows(2).filter(|two| two[0] != two[1]).count()
    }
}

#[test]
fn an_owner_has_its_share_back_within_a_second() {
    let mut host = Host::new(&[
        ("owner", guest(Policy::Own, 200, 400)),
        ("other", guest(Policy::Own, 50, 400)),
    ]);
    // The owner is quiet: what it leaves goes to whoever wants it.
    host.run(20_000, &|name, _| if name == "other" { 400 } else { 10 });
    assert!(host.limit("other") > 200, "{}", host.limit("other"));
    let lent = host.limit("other");
    let began = host.now;
    host.run(1000, &|_, _| 400);
    assert_eq!(host.limit("other"), 50, "it had {lent}");
    assert!(host.limit("owner") >= 200);
    let back = host
        .log
        .iter()
        .find(|(at, n, _, to)| *at > began && n.as_str() == "other" && *to == 50);
    assert!(back.unwrap().0 - began <= 500);
    // Nothing is lent while it works on.
    host.run(20_000, &|_, _| 400);
    assert_eq!(host.limit("other"), 50);
}

#[test]
fn of_two_that_borrow_the_one_of_higher_priority_comes_first() {
    let first = Seen {
        priority: 200,
        ..guest(Policy::Own, 50, 300)
    };
    let mut host = Host::new(&[
        ("owner", guest(Policy::Own, 200, 400)),
        ("first", first),
        ("second", guest(Policy::Own, 50, 300)),
    ]);
    host.run(30_000, &|name, _| if name == "owner" { 0 } else { 400 });
    assert!(
        host.limit("first") > 200 && host.limit("second") < 100,
        "{:?}",
        host.log
    );
    // What is lent is never more than what is left.
    assert!(host.limit("first") + host.limit("second") <= 300);
}

#[test]
fn an_owner_that_flickers_lends_nothing() {
    let mut host = Host::new(&[
        ("owner", guest(Policy::Own, 200, 400)),
        ("other", guest(Policy::Own, 50, 400)),
    ]);
    host.run(60_000, &|name, now| match name {
        "owner" if now / 1000 % 2 == 0 => 300,
        "owner" => 0,
        _ => 400,
    });
    assert_eq!(host.limit("other"), 50);
    assert!(host.log.len() <= 2, "{:?}", host.log);
}

#[test]
fn what_is_short_is_given_by_priority() {
    let busy = Policy::Utilisation { low: 50, high: 80 };
    let low = Seen {
        limit: 100,
        ..guest(busy.clone(), 50, 400)
    };
    let high = Seen {
        priority: 900,
        ..low.clone()
    };
    let mut host = Host::new(&[("high", high), ("low", low)]);
    host.run(30_000, &|_, _| 400);
    assert!(host.limit("high") + host.limit("low") <= CAPACITY);
    assert!(host.limit("high") > 2 * host.limit("low"), "{:?}", host.log);
}

#[test]
fn a_limit_falls_to_what_is_used_and_grows_when_that_does() {
    let mut host = Host::new(&[(
        "web",
        guest(Policy::Utilisation { low: 40, high: 70 }, 20, 400),
    )]);
    host.run(600_000, &|_, _| 60);
    let settled = host.limit("web");
    assert!((90..=150).contains(&settled), "{settled}");
    host.run(30_000, &|_, _| 250);
    assert!(
        (310..=400).contains(&host.limit("web")),
        "{}",
        host.limit("web")
    );
}

#[test]
fn outside_its_bounds_it_is_brought_back_at_once() {
    let mut web = guest(Policy::Waiting { below: 10 }, 50, 200);
    web.limit = 400;
    let mut host = Host::new(&[("web", web)]);
    host.run(TICK, &|_, _| 10);
    assert_eq!(host.limit("web"), 200);
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::Own),
        (5..60_u8, 20..30_u8).prop_map(|(low, wide)| Policy::Utilisation {
            low,
            high: low + wide
        }),
        (2..60_u8).prop_map(|below| Policy::Waiting { below }),
        (1..20_u8).prop_map(|below| Policy::Metric {
            command: vec!["x".into()],
            below: below.into(),
        }),
    ]
}

proptest! {
    /// With demands that stay as they are, limits come to rest: at most one turn, and in the last
    /// of forty minutes nothing changes but for what was forgotten meanwhile.
    #[test]
    fn steady_demands_make_no_limit_swing(
        all in proptest::collection::vec((policies(), 5..100_u64, 0..300_u64, 0..400_u64), 1..5),
    ) {
        let names = ["a", "b", "c", "d"];
        let guests: Vec<(&str, Seen)> = names.iter().zip(&all)
            .map(|(name, (policy, entitled, more, _))| (*name, guest(policy.clone(), *entitled, entitled + more)))
            .collect();
        let mut host = Host::new(&guests);
        let wants = |name: &str, _: u64| {
            names.iter().position(|n| *n == name).map_or(0, |at| all[at].3)
        };
        host.run(840_000, &wants);
        for (name, _) in &guests {
            prop_assert!(host.turns(name) <= 2, "{} {:?}", name, host.log);
        }
        let before = host.log.len();
        host.run(50_000, &wants);
        prop_assert!(host.log.len() - before <= 1, "{:?}", &host.log[before..]);
    }
}

#[test]
fn memory_in_use_is_not_asked_for_and_a_refusal_is_waited_out() {
    let web = name("web");
    let mut control = Control::default();
    let mut seen = Seen {
        firm: true,
        limit: 1024,
        bounds: (16, 256),
        used: 500,
        ..guest(Policy::Utilisation { low: 40, high: 80 }, 0, 256)
    };
    let mut at = |now, seen: &Seen| {
        let all = BTreeMap::from([(web.clone(), seen.clone())]);
        let change = control.decide(now, 4096, &all).remove(&web)?;
        control.refused(now, &web);
        Some(change.to)
    };
    // Where it fits, not where it is to be; and that was refused, so it is left alone.
    assert_eq!(at(0, &seen), Some(834));
    assert_eq!(at(TICK, &seen), None);
    assert_eq!(at(DOWN_PAUSE, &seen), Some(834));
    // A little more or less is no reason, growth beyond its bounds none either.
    seen.limit = 834;
    for used in [499, 500, 700] {
        seen.used = used;
        assert_eq!(at(2 * DOWN_PAUSE, &seen), None, "{used}");
    }
    seen.used = 300;
    assert_eq!(at(3 * DOWN_PAUSE, &seen), Some(501));
    seen.used = 100;
    assert_eq!(at(4 * DOWN_PAUSE, &seen), Some(256));
}

/// Memory is counted in MiB and does not come and go with the limit: what is needed stays needed.
#[test]
fn a_memory_limit_comes_to_rest_above_what_is_needed() {
    let memory = Seen {
        bounds: (16, 400),
        limit: 400,
        ..guest(Policy::Utilisation { low: 40, high: 70 }, 0, 400)
    };
    let mut host = Host {
        seen: BTreeMap::from([(name("web"), memory)]),
        ..Host::new(&[])
    };
    host.run(600_000, &|_, _| 60);
    let calm = host.limit("web");
    assert!((86..=150).contains(&calm), "{calm}");
    let changes = host.log.len();
    host.run(1_800_000, &|_, now| 60 + now / 1000 % 3);
    assert_eq!((host.log.len(), host.turns("web")), (changes, 0));
    // It grows at once when more is needed, and turns round once or twice.
    host.run(10_000, &|_, _| 140);
    assert!(host.limit("web") >= 200, "{}", host.limit("web"));
    host.run(1_800_000, &|_, _| 130);
    assert!(host.turns("web") <= 2, "{}", host.turns("web"));
}

#[test]
fn the_cause_that_is_told_is_what_was_seen() {
    let own = |limit, used| Seen {
        limit,
        used,
        ..guest(Policy::Own, 100, 200)
    };
    let mut control = Control::default();
    let all: BTreeMap<_, _> = [(name("a"), own(200, 0))].into();
    // Nobody has lent or borrowed anything yet.
    let change = &control.decide(0, CAPACITY, &all)[&name("a")];
    assert_eq!(
        (change.to, change.cause.as_str()),
        (
            100,
            "its own is 100% of a CPU, and nothing is left that others lend"
        )
    );
    // Later it lends.
    let change = &control.decide(QUIET, CAPACITY, &all)[&name("a")];
    assert!(
        change.cause.contains("needs less than its own 100%"),
        "{change:?}"
    );
    for (limit, says) in [(300, "at most"), (10, "at least")] {
        let one = Seen {
            limit,
            bounds: (50, 200),
            ..guest(Policy::Waiting { below: 10 }, 0, 200)
        };
        let all = [(name("b"), one)].into();
        let change = &Control::default().decide(0, CAPACITY, &all)[&name("b")];
        assert!(change.cause.ends_with(says), "{change:?}");
    }
}
