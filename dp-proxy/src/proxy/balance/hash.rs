//! Consistent hashing: weighted rendezvous ("highest random weight").
//!
//! Every node draws a number from the request's key and its own address, and the highest wins. So the choice depends on
//! nothing but key, addresses and weights: it is the same on every worker, on every proxy and after every restart; a node
//! that goes takes only its own keys with it, and one that comes takes its share from each of the others.

use protocol::resource::{HashKey, Known, Values, Variable};

use super::Choice;

pub(super) fn choose(choice: Choice<'_>, key: &HashKey, values: &dyn Values) -> Option<usize> {
    let key = key_of(key, values);
    choice.upstream.tiers.iter().find_map(|tier| {
        let mut best = None;
        for (place, weight) in choice.among(tier) {
            let score = score(key, choice.upstream.nodes[place].seed, weight);
            if best.is_none_or(|(_, most)| score > most) {
                best = Some((place, score));
            }
        }
        best.map(|(place, _)| place)
    })
}

/// The number of the request's key; a request without one is known by its address, as in APISIX.
fn key_of(key: &HashKey, values: &dyn Values) -> u64 {
    let own = match key {
        HashKey::Variable(variable) => values.value(variable).map(|value| digest(&value)),
        HashKey::Text(text) => text.fill(values).map(|value| digest(&value)),
    };
    own.unwrap_or_else(|| values.value(&Variable::Known(Known::RemoteAddr)).map_or(0, |address| digest(&address)))
}

/// A number for bytes: FNV-1a, then mixed. Frozen: another one would send every client to another node.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let sum = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(sum)
}

/// The finaliser of MurmurHash3: every bit of the input changes half of the output.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

/// What a node draws. `-weight / ln(u)` for a uniform `u` makes each win in proportion to its weight.
fn score(key: u64, seed: u64, weight: u32) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let uniform = ((mix(key ^ seed) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(weight) / uniform.ln()
}
