//! Every invariant over the seeds of its target, and over what comes of changing them: a fuzzer looks further, but not with every change.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::{ALL, hold};

/// Changed seeds that are tried, each.
const TRIES: usize = 2_000;

/// Numbers that are the same in every run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % most.max(1) as u64).unwrap()
    }
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// One of these with a few pieces of it, or of another one, put elsewhere, left out or changed.
fn changed(seeds: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seeds[numbers.below(seeds.len())].clone();
    for _ in 0..=numbers.below(4) {
        let other = &seeds[numbers.below(seeds.len())];
        let from = numbers.below(other.len());
        let piece = &other[from..(from + 1 + numbers.below(12)).min(other.len())];
        let at = numbers.below(bytes.len() + 1);
        let end = (at + numbers.below(8)).min(bytes.len());
        match numbers.below(4) {
            0 => drop(bytes.splice(at..at, piece.iter().copied())),
            1 => drop(bytes.splice(at..end, piece.iter().copied())),
            2 => drop(bytes.drain(at..end)),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << numbers.below(8)),
        }
    }
    bytes
}

fn holds(name: &str) {
    let seeds = seeds(name);
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let tried = (0..TRIES).map(|_| changed(&seeds, &mut numbers));
    for bytes in seeds.iter().cloned().chain(tried) {
        let held = catch_unwind(AssertUnwindSafe(|| hold(name, &bytes)));
        assert!(held.is_ok(), "{name}: {:?}", bytes.escape_ascii().to_string());
    }
}

/// A test for each, so that one that does not hold hides no other one.
macro_rules! each {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            holds(stringify!($name));
        })*

        #[test]
        fn every_invariant_is_tested_and_has_a_target() {
            assert_eq!(ALL.map(|(name, _)| name), [$(stringify!($name)),*]);
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
            let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
            for (name, _) in ALL {
                let target = fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs"))).unwrap();
                assert!(target.contains(&format!("\"{name}\"")) && manifest.contains(&format!("\"{name}\"")), "{name}");
            }
        }
    };
}

each!(addresses, answers, clients, config, cookies, pages, paths, records, requests, tokens);
