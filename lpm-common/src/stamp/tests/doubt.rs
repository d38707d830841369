//! Packets and TLVs that are malformed, or whose HMAC is wrong.

use super::*;

/// RFC 8972 section 4: what follows a malformed TLV is copied.
#[test]
fn a_malformed_tlv_ends_the_processing() {
    for (kind, length) in [(3, 3), (4, 5), (5, 11), (7, 15), (8, 15), (2, 3)] {
        let value = vec![0xee; length];
        let tlvs: [(u8, &[u8]); 2] = [(kind, &value), (kind::TIMESTAMP_INFORMATION, &[0; 4])];
        let request = packet(Mode::Unauthenticated, &tlvs);
        let (answer, reflected) =
            answer_to(&request, Mode::Unauthenticated, NO_KEY, &facts()).expect("an answer");
        // A wrong HMAC TLV is an HMAC that cannot be verified.
        if kind == kind::HMAC {
            assert!(reflected.is_doubtful);
            continue;
        }
        assert_eq!(
            flags_of(&answer[44..]),
            [flag::MALFORMED, flag::UNRECOGNIZED],
            "{kind}"
        );
        assert_eq!(answer[answer.len() - 4..], [0; 4], "{kind}");
        let read = reply::read(&answer, Mode::Unauthenticated, NO_KEY).expect("an answer");
        assert!(read.extensions.is_malformed);
        assert_eq!(read.extensions.stamping, None);
    }
    // A TLV that is longer than the packet, and a header that is cut short.
    for cut in 1..8 {
        let request = packet(
            Mode::Unauthenticated,
            &[(kind::TIMESTAMP_INFORMATION, &[1; 4])],
        );
        let request = &request[..request.len() - cut];
        let (answer, _) =
            answer_to(request, Mode::Unauthenticated, NO_KEY, &facts()).expect("an answer");
        assert_eq!(answer.len(), request.len());
        assert_eq!(answer[44], flag::MALFORMED);
    }
}

/// A peer of TWAMP-Light pads with random bytes, which are no session number.
#[test]
fn random_padding_is_no_session() {
    let number = |bytes: &[u8], mode| session_number(bytes, mode);
    let mut light = packet(Mode::Unauthenticated, &[]);
    assert_eq!(number(&light, Mode::Unauthenticated), Some(0x1234));
    light[43] = 1;
    assert_eq!(number(&light, Mode::Unauthenticated), Some(0));
    assert_eq!(number(&light[..41], Mode::Unauthenticated), Some(0x1234));
    light[16] = 1;
    assert_eq!(number(&light[..41], Mode::Unauthenticated), Some(0));
    assert_eq!(number(&light[..15], Mode::Unauthenticated), None);
    // Beyond the base packet are TLVs.
    let tlvs = packet(Mode::Unauthenticated, &[(kind::EXTRA_PADDING, &[9; 9])]);
    assert_eq!(number(&tlvs, Mode::Unauthenticated), Some(0x1234));
    let mut signed = signed(Mode::Authenticated, &[]);
    signed[40] = 1;
    assert_eq!(number(&signed, Mode::Authenticated), Some(0x1234));
}

/// Who has no key must not get his TLVs signed: the answer would be a valid request.
#[test]
fn doubtful_tlvs_get_no_hmac() {
    let key = KEY.expect("the key");
    for mode in [Mode::Unauthenticated, Mode::Authenticated] {
        let mut request = signed(mode, &[(kind::CLASS_OF_SERVICE, &[46 << 2, 0, 0, 0])]);
        let at = request.len() - 16;
        request[at..].fill(0xee);
        let (answer, reflected) = answer_to(&request, mode, KEY, &facts()).expect("an answer");
        assert!(reflected.is_doubtful);
        assert_eq!(answer[at..], [0xee; 16]);
        let right = key.tag(&[&answer[..4], &answer[mode.base()..at - 4]]);
        assert_ne!(answer[at..], right);
    }
}

#[test]
fn zeros_behind_the_base_packet_stay_zeros() {
    let mut request = packet(Mode::Unauthenticated, &[]);
    request.resize(200, 0);
    let (answer, _) =
        answer_to(&request, Mode::Unauthenticated, NO_KEY, &facts()).expect("an answer");
    assert_eq!(answer[44..], [0; 156]);
}

#[test]
fn tlvs_are_believed_only_under_the_right_hmac() {
    let asks: [(u8, &[u8]); 1] = [(kind::TIMESTAMP_INFORMATION, &[0; 4])];
    for mode in [Mode::Unauthenticated, Mode::Authenticated] {
        let good = signed(mode, &asks);
        let (answer, reflected) = answer_to(&good, mode, KEY, &facts()).expect("an answer");
        assert!(!reflected.is_doubtful);
        let read = reply::read(&answer, mode, KEY).expect("a valid answer");
        assert_eq!(read.extensions.stamping, Some(facts().stamping));
        let other = Some(&Key(b"another key"));
        if mode == Mode::Unauthenticated {
            let read = reply::read(&answer, mode, other).expect("an answer");
            assert!(read.extensions.is_doubtful && read.extensions.stamping.is_none());
        }
        // Changed on the way: the TLVs come back as they were, with flag I.
        let mut bad = good.clone();
        bad[mode.base() + 4] ^= 1;
        let (answer, reflected) = answer_to(&bad, mode, KEY, &facts()).expect("an answer");
        assert!(reflected.is_doubtful);
        assert_eq!(flags_of(&answer[mode.base()..]), [flag::INTEGRITY; 2]);
        assert_eq!(answer[mode.base() + 4..][..4], bad[mode.base() + 4..][..4]);
        let read = reply::read(&answer, mode, KEY).expect("an answer");
        assert!(read.extensions.is_doubtful && read.extensions.stamping.is_none());
    }
    // An authenticated packet's TLVs need an HMAC, padding alone does not (section 4.8).
    let mut bare = signed(Mode::Authenticated, &asks);
    bare.truncate(112 + 8);
    let (_, reflected) = answer_to(&bare, Mode::Authenticated, KEY, &facts()).expect("an answer");
    assert!(reflected.is_doubtful);
    let mut padded = signed(Mode::Authenticated, &[]);
    padded.extend([flag::UNRECOGNIZED, kind::EXTRA_PADDING, 0, 2, 1, 2]);
    let (answer, reflected) =
        answer_to(&padded, Mode::Authenticated, KEY, &facts()).expect("an answer");
    assert!(!reflected.is_doubtful);
    assert_eq!(answer[112..], [0, kind::EXTRA_PADDING, 0, 2, 1, 2]);
}

#[test]
fn an_hmac_that_other_tlvs_follow_is_no_hmac() {
    let mut request = signed(
        Mode::Unauthenticated,
        &[(kind::TIMESTAMP_INFORMATION, &[0; 4])],
    );
    let mut padded = request.clone();
    padded.extend([flag::UNRECOGNIZED, kind::EXTRA_PADDING, 0, 1, 9]);
    let answer = answer_to(&padded, Mode::Unauthenticated, KEY, &facts());
    assert!(!answer.expect("an answer").1.is_doubtful);
    request.extend([
        flag::UNRECOGNIZED,
        kind::CLASS_OF_SERVICE,
        0,
        4,
        184,
        0,
        0,
        0,
    ]);
    let (_, reflected) =
        answer_to(&request, Mode::Unauthenticated, KEY, &facts()).expect("an answer");
    assert!(reflected.is_doubtful);
    assert_eq!(reflected.dscp, 34, "nothing is done for it");
}

proptest! {
    /// Whatever a peer sends, the answer is as long, and reading it does not panic.
    #[test]
    fn no_answer_is_longer_than_its_packet(
        head in proptest::collection::vec(any::<u8>(), 0..130),
        tlvs in proptest::collection::vec((any::<u8>(), 0_u8..12, 0_usize..40), 0..6),
        cut in 0_usize..8,
        is_authenticated in any::<bool>(),
    ) {
        let mode = if is_authenticated { Mode::Authenticated } else { Mode::Unauthenticated };
        let mut request = head;
        for (flags, kind, length) in tlvs {
            request.extend([flags, kind, 0, u8::try_from(length).expect("below 256")]);
            request.extend(vec![flags; length]);
        }
        request.truncate(request.len().saturating_sub(cut));
        if let Some(covered) = mode.covered() && request.len() >= mode.base() {
            let tag = KEY.expect("the key").tag(&[&request[..covered]]);
            request[covered..covered + 16].copy_from_slice(&tag);
        }
        if let Ok((answer, _)) = answer_to(&request, mode, KEY, &facts()) {
            prop_assert_eq!(answer.len(), request.len());
            let _ = reply::read(&answer, mode, KEY);
            let _ = reply::read(&request, mode, NO_KEY);
        }
    }
}
