//! Throws mutated input at parsers. A target is a test beside its parser: it names good inputs, and says what must hold of
//! whatever comes (that nothing panics goes without saying). Only tests use this crate.
//!
//! `HOLDFAST_FUZZ_CASES` makes every target longer (a million is minutes, a billion days), `HOLDFAST_FUZZ_SEED` gives it
//! other cases. A failure prints the seed, the number of the case and the input.

/// Cases of one target in a run of all tests: a fraction of a second.
const CASES: u64 = 5_000;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// Inputs do not grow beyond this.
const BYTES_MAX: usize = 64 << 10;
/// Bytes at which parsers turn.
const INTERESTING: &[u8] = b"\r\n\0 \t:;,\"'{}[]%/0z\x7f\x80\xff";

/// `xorshift64*`: the same cases for the same seed, everywhere.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16;
        usize::try_from(drawn % bound.max(1) as u64).expect("less than a usize")
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Says which case it was, when it fails.
struct Case<'c> {
    seed: u64,
    number: u64,
    input: &'c [u8],
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, number, input } = self;
            eprintln!("HOLDFAST_FUZZ_SEED={seed}, case {number}, input: \"{}\"", input.escape_ascii());
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// Calls `check` with every seed as it is, and then with mutations of them. `cost` is how many times as slow as a parser of
/// heads it is: it gets so many times fewer cases.
///
/// # Panics
/// Where `check` does, after the case was printed; and for a variable that is no number.
pub fn hammer(cost: u64, seeds: &[&[u8]], mut check: impl FnMut(&[u8])) {
    let (cases, seed) = (setting("HOLDFAST_FUZZ_CASES", CASES) / cost, setting("HOLDFAST_FUZZ_SEED", SEED));
    let mut draws = Draws(seed.max(1));
    for number in 0..cases.max(seeds.len() as u64) {
        let input = match seeds.get(usize::try_from(number).unwrap_or(usize::MAX)) {
            Some(whole) => whole.to_vec(),
            None => mutated(seeds, &mut draws),
        };
        let _case = Case { seed, number, input: &input };
        check(&input);
    }
}

fn mutated(seeds: &[&[u8]], draws: &mut Draws) -> Vec<u8> {
    let mut input = draws.one(seeds).to_vec();
    for _ in 0..=draws.below(6) {
        let at = draws.below(input.len() + 1);
        let end = (at + draws.below(16)).min(input.len());
        match draws.below(8) {
            0 if at < input.len() => input[at] ^= 1 << draws.below(8),
            1 if at < input.len() => input[at] = *draws.one(INTERESTING),
            2 => input.insert(at, *draws.one(INTERESTING)),
            3 => drop(input.drain(at..end)),
            4 => {
                let twice = input[at..end].to_vec();
                let times = 1 + draws.below(40);
                input.splice(at..at, twice.repeat(times));
            }
            5 => {
                // The start of this one, and the end of another.
                let other = draws.one(seeds);
                input.truncate(at);
                input.extend_from_slice(&other[draws.below(other.len() + 1)..]);
            }
            6 => input.truncate(at),
            _ => drop(input.splice(at..end, draws.below(usize::MAX).to_string().into_bytes())),
        }
        input.truncate(BYTES_MAX);
    }
    input
}

#[test]
fn every_seed_is_tried_and_then_what_is_near_it() {
    let (mut whole, mut near) = (0, 0);
    hammer(1, &[b"Content-Length: 5", b"a"], |input| match input {
        b"Content-Length: 5" | b"a" => whole += 1,
        _ => near += usize::from(input.starts_with(b"Content")),
    });
    assert!(whole >= 2 && near > 500, "{whole} {near}");
}
