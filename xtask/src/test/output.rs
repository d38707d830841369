//! Reads a group's output: how many tests passed, failed and were skipped.

use std::collections::BTreeMap;

use super::skips::Skip;

/// The counts of one group, or of all.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
    skips: BTreeMap<Skip, usize>,
    failures: Vec<String>,
    /// What failed tests printed where they panicked.
    words: Vec<String>,
}

/// Number of lines of a failed test that are shown again at the end.
const SHOWN_AGAIN: usize = 25;

impl Tally {
    /// Makes the counts of one check that passed.
    pub(crate) fn one_pass() -> Self {
        Self {
            passed: 1,
            ..Self::default()
        }
    }

    /// Makes the counts of one check, `name`, that failed.
    pub(crate) fn one_failure(name: &str) -> Self {
        Self {
            failed: 1,
            failures: vec![name.to_owned()],
            ..Self::default()
        }
    }

    /// Makes the counts of one check that could not run.
    pub(crate) fn one_skip(skip: Skip) -> Self {
        Self {
            skips: [(skip, 1)].into(),
            ..Self::default()
        }
    }

    /// Adds the counts of `other`.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        for (skip, count) in other.skips {
            *self.skips.entry(skip).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.words.extend(other.words);
    }

    /// How many failed.
    pub(crate) fn failed(&self) -> usize {
        self.failed
    }

    /// The reasons of skips, and how many tests gave each.
    pub(crate) fn skips(&self) -> impl Iterator<Item = (&Skip, usize)> {
        self.skips.iter().map(|(skip, count)| (skip, *count))
    }

    /// The names of what failed.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// What failed tests printed where they panicked. An output of thousands of lines ends with it.
    pub(crate) fn words(&self) -> &[String] {
        &self.words
    }

    /// Puts the group's name before the names of its failures.
    pub(crate) fn name_failures(&mut self, group: &str) {
        for failure in self.failures.iter_mut().filter(|failure| *failure != group) {
            *failure = format!("{group}: {failure}");
        }
    }

    /// Puts a kernel's series before the groups of its skips.
    pub(crate) fn name_skips(&mut self, series: &str) {
        let skips = std::mem::take(&mut self.skips).into_iter();
        self.skips = skips
            .map(|(skip, count)| {
                let group = format!("{series} {}", skip.group);
                (Skip { group, ..skip }, count)
            })
            .collect();
    }

    /// The counts in words: `N passed, N failed, N skipped`.
    pub(crate) fn counts(&self) -> String {
        let skipped: usize = self.skips.values().sum();
        format!(
            "{} passed, {} failed, {skipped} skipped",
            self.passed, self.failed
        )
    }

    fn fail(&mut self, name: &str) {
        self.failed += 1;
        self.failures.push(name.to_owned());
    }

    /// Notes how the group's command ended. If it ended badly, that is a failure even if no test
    /// says so, such as when the tests did not compile.
    pub(crate) fn end(&mut self, success: bool, what: &str) {
        if !success && self.failed == 0 {
            self.fail(what);
        }
    }
}

/// Reads the output of `cargo test -- --show-output` line by line.
#[derive(Debug, Default)]
pub(crate) struct CargoTests {
    tally: Tally,
    /// Number of tests that were counted as passed and then said that they skip.
    skipped: usize,
    /// Passed and failed tests of the binary that runs now.
    binary: [usize; 2],
    /// The test whose captured output is being shown, and whether it has said that it skips.
    section: Option<(String, bool)>,
    in_failures: bool,
    /// Number of lines that are still to be kept of the failed test that is being shown.
    keep: usize,
}

impl CargoTests {
    /// Takes the next line.
    pub(crate) fn line(&mut self, line: &str) {
        self.keep_words(line);
        if let Some(skip) = Skip::parse(line) {
            self.skip(skip);
        } else if let Some(name) = section_name(line) {
            self.section = Some((name.to_owned(), false));
        } else if line == "successes:" || line == "failures:" {
            self.in_failures = line == "failures:";
            self.section = None;
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            self.result(rest);
        } else if let Some((name, verdict)) = test_line(line) {
            self.test(name, verdict);
        }
    }

    /// Keeps what a failed test says from its panic on.
    fn keep_words(&mut self, line: &str) {
        let Some((name, _)) = self.section.as_ref().filter(|_| self.in_failures) else {
            self.keep = 0;
            return;
        };
        if section_name(line).is_some() || line == "stack backtrace:" {
            self.keep = 0;
        } else if self.keep > 0 {
            self.keep -= 1;
            self.tally.words.push(format!("  {line}"));
        } else if line.contains(" panicked at ") {
            self.keep = SHOWN_AGAIN;
            self.tally.words.push(format!("{name}: {line}"));
        }
    }

    /// How many tests came to an end so far.
    pub(crate) fn ended(&self) -> usize {
        self.tally.passed + self.tally.failed
    }

    /// The counts so far.
    pub(crate) fn finish(mut self) -> Tally {
        self.tally.passed = self.tally.passed.saturating_sub(self.skipped);
        self.tally
    }

    fn skip(&mut self, skip: Skip) {
        let first = self
            .section
            .as_mut()
            .is_none_or(|(_, said)| !std::mem::replace(said, true));
        if first && !self.in_failures {
            self.skipped += 1;
            *self.tally.skips.entry(skip).or_default() += 1;
        }
    }

    /// Takes `test <name> ... <verdict>`. Tests are counted one by one, because a test binary that
    /// is killed never comes to its result line.
    fn test(&mut self, name: &str, verdict: &str) {
        if verdict == "ok" {
            self.tally.passed += 1;
            self.binary[0] += 1;
        } else if verdict.starts_with("FAILED") {
            self.tally.fail(name);
            self.binary[1] += 1;
        } else if let Some(reason) = verdict.strip_prefix("ignored") {
            let reason = reason.trim_start_matches(", ");
            let reason = if reason.is_empty() {
                "ignored without a reason"
            } else {
                reason
            };
            let skip = Skip {
                group: "ignored".to_owned(),
                reason: reason.to_owned(),
            };
            *self.tally.skips.entry(skip).or_default() += 1;
        }
    }

    /// Takes the binary's own counts. A process that a test started may print into the line of that
    /// test, so that its verdict was not seen.
    fn result(&mut self, rest: &str) {
        self.section = None;
        self.in_failures = false;
        let [ok, failed] = std::mem::take(&mut self.binary);
        self.tally.passed += number_before(rest, " passed").saturating_sub(ok);
        for _ in failed..number_before(rest, " failed") {
            self.tally
                .fail("a test with a torn output line; its output is above");
        }
    }
}

/// The number that stands before `word`; 0 if there is none.
fn number_before(text: &str, word: &str) -> usize {
    let number = text
        .split_once(word)
        .and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok());
    number.unwrap_or(0)
}

fn section_name(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

fn test_line(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("test ")?.split_once(" ... ")
}

/// Reads the output of `python3 -m unittest -v` line by line.
#[derive(Debug, Default)]
pub(crate) struct PythonTests {
    tally: Tally,
}

impl PythonTests {
    /// Takes the next line: `<name> ... ok|FAIL|ERROR|skipped '<reason>'`.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(skip) = Skip::parse(line) {
            *self.tally.skips.entry(skip).or_default() += 1;
            return;
        }
        let Some((name, verdict)) = line.rsplit_once(" ... ") else {
            return;
        };
        if verdict == "ok" {
            self.tally.passed += 1;
        } else if verdict == "FAIL" || verdict == "ERROR" {
            self.tally.fail(name);
        } else if let Some(reason) = verdict.strip_prefix("skipped ") {
            let reason = reason.trim_matches(['\'', '"']).to_owned();
            let skip = Skip {
                group: "oracle".to_owned(),
                reason,
            };
            *self.tally.skips.entry(skip).or_default() += 1;
        }
    }

    /// The counts so far.
    pub(crate) fn finish(self) -> Tally {
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 4 tests
test a::one ... ok
test a::two ... ok
test a::three ... FAILED
test a::four ... ignored, takes an hour
successes:

---- a::two stdout ----
LPM-SKIP kernel: no netem
LPM-SKIP kernel: no fq

failures:

---- a::three stdout ----
LPM-SKIP kernel: not reached
thread 'a::three' (7) panicked at src/a.rs:7:9:
left is not right
stack backtrace:
   0: somewhere

failures:
    a::three

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out
";

    #[test]
    fn a_skipped_test_is_not_a_passed_one() {
        let mut tests = CargoTests::default();
        OUTPUT.lines().for_each(|line| tests.line(line));
        let tally = tests.finish();
        assert_eq!(tally.counts(), "1 passed, 1 failed, 2 skipped");
        assert_eq!(tally.failures(), ["a::three"]);
        let words = [
            "a::three: thread 'a::three' (7) panicked at src/a.rs:7:9:",
            "  left is not right",
        ];
        assert_eq!(tally.words(), words);
        let reasons: Vec<_> = tally
            .skips()
            .map(|(skip, _)| skip.reason.as_str())
            .collect();
        assert_eq!(reasons, ["takes an hour", "no netem"]);
    }

    #[test]
    fn a_torn_line_loses_no_test() {
        let mut tests = CargoTests::default();
        let torn = "test a::two ... lpm: attached\nok\ntest a::three ... lpm: attached\nFAILED";
        OUTPUT
            .replace("test a::two ... ok\ntest a::three ... FAILED", torn)
            .lines()
            .for_each(|line| tests.line(line));
        assert_eq!(tests.ended(), 3);
        let tally = tests.finish();
        assert_eq!(tally.counts(), "1 passed, 1 failed, 2 skipped");
        assert!(tally.failures()[0].contains("torn"));
    }

    #[test]
    fn what_does_not_compile_fails() {
        let mut tally = CargoTests::default().finish();
        tally.end(false, "cargo test");
        assert_eq!(tally.counts(), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn reads_python() {
        let mut tests = PythonTests::default();
        for line in [
            "test_a (test_x.A.test_a) ... ok",
            "test_b (test_x.A.test_b) ... FAIL",
            "test_c (test_x.A.test_c) ... skipped 'no tshark'",
            "Ran 3 tests in 0.1s",
        ] {
            tests.line(line);
        }
        assert_eq!(tests.finish().counts(), "1 passed, 1 failed, 1 skipped");
    }
}
