//! What goes wrong at the same time, put together by the seed: some of several parts of the house, one fault of each.

use super::Step;
use crate::fault::Fault::{self, *};
use crate::fault::Whom::{All, Follower, Leader};
use crate::luck::Luck;
use crate::s3::{Call, Fault as How};

/// How often faults come together in a run.
const ROUNDS: u64 = 3;
/// Of nodes and what is between them. One at a time: who leads can only be asked where the others answer.
const NODES: &[Fault] = &[
    Kill { whom: Leader },
    Kill { whom: Follower },
    Stop { whom: Leader },
    Pause { whom: Leader },
    Pause { whom: Follower },
    Isolate { whom: Leader },
    Isolate { whom: Follower },
    Deaf { whom: Leader },
    Mute { whom: Leader },
    Partial,
    Delay { ms: 20 },
    Loss { of_100: 5 },
];
const PROXIES: &[Fault] = &[KillProxies, PauseProxy];
const RECORD: &[Fault] = &[KillPostgres, FreezePostgres];
const ARCHIVE: &[Fault] = &[
    S3 { call: None, how: How::Status(403) },
    S3 { call: Some(Call::Put), how: How::Silence },
    S3 { call: Some(Call::Put), how: How::LostAnswer(500) },
    S3 { call: Some(Call::Put), how: How::TornUpload },
    S3 { call: Some(Call::Get), how: How::FlippedBit },
    S3 { call: Some(Call::List), how: How::StaleList },
];
const CLOCKS: &[Fault] = &[
    ClockStep { whom: All, seconds: 86_400 },
    ClockStep { whom: All, seconds: -3_600 },
    ClockRate { whom: All, ppm: 500_000 },
    ClockRate { whom: All, ppm: -500_000 },
];

pub(super) fn plan(luck: &mut Luck) -> Vec<Step> {
    (0..ROUNDS).flat_map(|number| round(luck, number == 0)).collect()
}

/// Two or more at the same time. In the first round the leader dies, so that there is an election in any case.
fn round(luck: &mut Luck, is_first: bool) -> Vec<Step> {
    let mut left = vec![PROXIES, RECORD, ARCHIVE, CLOCKS, if is_first { &NODES[..1] } else { NODES }];
    let kept = usize::try_from(luck.between(2, 4)).expect("a small number");
    let mut steps: Vec<Step> = Vec::new();
    while steps.len() < kept {
        // The nodes are in every round.
        let at = if steps.is_empty() { left.len() - 1 } else { place(luck, left.len()) };
        let of = left.swap_remove(at);
        let fault = of[place(luck, of.len())];
        steps.push(Step { after_ms: 0, fault, lasts_ms: 0, beside: false });
    }
    // In any order.
    for at in (1..steps.len()).rev() {
        steps.swap(at, place(luck, at + 1));
    }
    let last = steps.len() - 1;
    for (at, step) in steps.iter_mut().enumerate() {
        step.beside = at > 0;
        step.after_ms = luck.between(300, 1200);
        step.lasts_ms = if at == last { luck.between(1500, 3000) } else { luck.between(200, 1000) };
    }
    steps
}

fn place(luck: &mut Luck, of: usize) -> usize {
    usize::try_from(luck.below(of as u64)).expect("a place in a list")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::scenario::plan_luck;

    #[test]
    fn rounds_are_of_several_faults_of_which_one_at_most_is_of_nodes() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let steps = plan(&mut plan_luck(seed));
            assert_eq!(steps, plan(&mut plan_luck(seed)), "the seed decides");
            let rounds: Vec<&[Step]> = steps.chunk_by(|_, next| next.beside).collect();
            assert_eq!(rounds.len(), 3, "{steps:?}");
            for round in &rounds {
                let of_nodes = round.iter().filter(|step| NODES.contains(&step.fault)).count();
                assert!((2..=4).contains(&round.len()) && of_nodes == 1, "{round:?}");
                seen.extend(round.iter().map(|step| step.fault.describe()));
            }
            assert!(rounds[0].iter().any(|step| step.fault == Kill { whom: Leader }), "{steps:?}");
        }
        let all = [NODES, PROXIES, RECORD, ARCHIVE, CLOCKS].iter().map(|of| of.len()).sum::<usize>();
        assert_eq!(seen.len(), all, "each of them comes up");
    }
}
