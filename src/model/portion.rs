//! What of the CPUs each of several guests gets while all of them want more than there is: what it is
//! guaranteed, and of what is left a part by its weight. The kernel knows only weights, so that is what
//! comes out; as soon as somebody wants less, the others share that in the same proportion.

/// The weight of whoever may use all CPUs of the host: the largest that version 2 knows.
const ALL: u64 = 10_000;

/// The largest that version 1 knows; on version 2 less is written, and hosts of many CPUs keep more than
/// their part while their own programs keep all of these busy.
const MOST: u64 = 25_600;

/// What one guest is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Hundredths of a CPU guaranteed to it.
    pub entitled: u64,
    /// Its part of the rest, beside the others'.
    pub weight: u64,
}

/// The weights of guests that share `room` of a host's `whole` CPU time (hundredths of a CPU both).
/// They mean the same on all CPUs of a host, however many share which.
#[must_use]
pub fn portions(room: u64, whole: u64, claims: &[Claim]) -> Vec<u64> {
    let entitled: u64 = claims.iter().map(|claim| claim.entitled).sum();
    let weights: u64 = claims.iter().map(|claim| claim.weight).sum();
    let rest = u128::from(room.saturating_sub(entitled));
    let whole = u128::from(whole.max(1));
    let of = |claim: &Claim| {
        // The guarantee is never rounded down.
        let own = (u128::from(claim.entitled) * u128::from(ALL)).div_ceil(whole);
        let part = rest * u128::from(claim.weight) * u128::from(ALL)
            / (u128::from(weights.max(1)) * whole);
        u64::try_from(own + part).unwrap_or(ALL).clamp(1, ALL)
    };
    claims.iter().map(of).collect()
}

/// What all guests together weigh beside the host's own programs, which weigh `others` together, so that
/// those get the `portion` (of 10,000) that is theirs while everybody wants all there is. A twentieth is
/// the host's in any case.
#[must_use]
pub fn beside_host(portion: u64, others: u64) -> u64 {
    const USUAL: u64 = 100;
    let portion = portion.clamp(ALL / 20, ALL);
    (others.saturating_mul(ALL - portion) / portion).clamp(USUAL, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_gets_its_portion_and_never_nothing() {
        // A quarter: the guests weigh three times as much.
        assert_eq!(beside_host(2500, 200), 600);
        assert_eq!(beside_host(0, 200), 3800);
        assert_eq!(beside_host(9999, 200), 100);
        assert_eq!(beside_host(0, 1200), 22_800);
        assert_eq!(beside_host(0, 6400), 25_600);
        // It claims as guests do: its reserve, and a part of the rest.
        let weights = portions(200, 200, &claims(&[(100, 100), (0, 100), (50, 200)]));
        assert_eq!(weights, [5625, 625, 3750]);
    }

    fn claims(all: &[(u64, u64)]) -> Vec<Claim> {
        let claim = |&(entitled, weight)| Claim { entitled, weight };
        all.iter().map(claim).collect()
    }

    /// Hundredths of a CPU that each gets of `room` while all want everything.
    fn gets(room: u64, weights: &[u64]) -> Vec<u64> {
        let sum: u64 = weights.iter().sum();
        weights.iter().map(|weight| weight * room / sum).collect()
    }

    #[test]
    fn a_guarantee_holds_beside_any_number_that_have_none() {
        for others in [1, 5, 50] {
            let mut all = vec![(100, 100)];
            all.extend(vec![(0, 100); others]);
            let weights = portions(200, 200, &claims(&all));
            assert!(gets(200, &weights)[0] >= 100, "{others}: {weights:?}");
            // What is left goes by weight, to it too.
            assert!(weights[0] > 5000 && weights[1..].iter().all(|w| *w == weights[1]));
        }
    }

    #[test]
    fn a_guarantee_holds_beside_any_weight() {
        let weights = portions(400, 400, &claims(&[(150, 1), (50, 50), (0, 10_000)]));
        let got = gets(400, &weights);
        assert!(got[0] >= 149 && got[1] >= 50 && got[2] >= 190, "{got:?}");
    }

    #[test]
    fn who_has_no_guarantee_keeps_something() {
        // All is promised, and more than all.
        assert_eq!(
            portions(200, 200, &claims(&[(200, 200), (0, 100)])),
            [10_000, 1]
        );
        let weights = portions(100, 200, &claims(&[(200, 200), (100, 100), (0, 7)]));
        assert_eq!(weights, [10_000, 5000, 1]);
    }

    #[test]
    fn without_a_guarantee_weights_stay_in_proportion() {
        let weights = portions(800, 1600, &claims(&[(0, 100), (0, 300)]));
        assert_eq!(weights, [1250, 3750]);
        assert_eq!(portions(0, 0, &claims(&[(0, 100)])), [1]);
    }
}
