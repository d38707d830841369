//! The packets of `tests/vectors/stamp.json`, which a script writes from the RFCs' figures: each
//! request must get the answer that stands beside it, byte by byte.

use std::{fs, path::Path, string::String, vec::Vec};

use serde::Deserialize;

use super::{Key, answer_to, facts, hex};
use crate::stamp::{Mode, reply};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    why: String,
    mode: String,
    key: Option<String>,
    request: String,
    answer: String,
    /// The DSCP of the answer, if it is not that of the request.
    #[serde(default = "arrived")]
    dscp: u8,
    #[serde(default)]
    doubtful: bool,
    #[serde(default)]
    malformed: bool,
}

fn arrived() -> u8 {
    facts().dscp
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/stamp.json");
    let text = fs::read_to_string(path).expect("the vectors");
    serde_json::from_str(&text).expect("cases")
}

#[test]
fn each_request_gets_the_answer_of_the_rfcs() {
    let cases = cases();
    assert!(cases.len() >= 90);
    for case in cases {
        let at = std::format!("{} ({})", case.name, case.why);
        let mode = match case.mode.as_str() {
            "unauthenticated" => Mode::Unauthenticated,
            "authenticated" => Mode::Authenticated,
            other => panic!("{at}: {other}"),
        };
        let key = case.key.map(|key| Key(key.leak().as_bytes()));
        let (request, wanted) = (hex(&case.request), hex(&case.answer));
        let (answer, reflected) = answer_to(&request, mode, key.as_ref(), &facts())
            .unwrap_or_else(|refusal| panic!("{at}: {refusal:?}"));
        assert_eq!(
            std::format!("{answer:02x?}"),
            std::format!("{wanted:02x?}"),
            "{at}"
        );
        assert_eq!(reflected.dscp, case.dscp, "{at}");
        assert_eq!(reflected.is_doubtful, case.doubtful, "{at}");
        assert_eq!(reflected.is_malformed, case.malformed, "{at}");
        // The sender sees the same of it.
        let read = reply::read(&answer, mode, key.as_ref()).expect("a valid answer");
        assert_eq!(read.extensions.is_doubtful, case.doubtful, "{at}");
        assert_eq!(read.extensions.is_malformed, case.malformed, "{at}");
    }
}
