//! Cards go to bytes and back; what is changed is found.

use netweight_card::{
    Budget, Calibration, Card, Error, FORMAT, Kind, MatrixPrecision, Method, OtherAllocation, Signed, Sizes,
    TextRecord, differing, digests, private_key, public_key,
};

/// Written by OpenSSL; of RFC 8032's test 2.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7\n\
                       -----END PRIVATE KEY-----\n";
const PUBLIC: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
const OTHER: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

fn card() -> Card {
    let text = TextRecord::of("a.txt".to_owned(), ["some ", "text"]);
    Card {
        format: FORMAT,
        writer: "netweight 0".to_owned(),
        kind: Kind::Tuned,
        method: Some(Method {
            quantizer: "grid".to_owned(),
            allocation: "sensitivity".to_owned(),
            others: vec![OtherAllocation {
                allocation: "uniform".to_owned(),
                bits_per_weight: 4.0,
                divergence: 0.012_345_678_901_234_567,
            }],
            budget: Budget::MaxPplRise(0.005),
            seed: 7,
            calibration: Calibration { text, n_tokens: 9, mean_nll: 1.0 / 3.0 },
        }),
        precision: vec![MatrixPrecision {
            name: "q".to_owned(),
            n_weights: 4,
            bits: 4.1,
            probe_bits: 3.5,
            divergence: 1.0 / 7.0,
            heads: vec![1e-7, 0.1],
        }],
        sizes: Sizes {
            original_bytes: 9,
            archive_bytes: 3,
            n_weights: 4,
            bits_per_weight: 4.1,
            refinement_bytes: None,
            bits_per_weight_with_refinement: None,
        },
        files: Vec::new(),
        refinement: Vec::new(),
        evidence: Vec::new(),
        free_run: None,
    }
}

#[test]
fn a_signed_card_comes_back_and_is_checked() {
    let bytes = Signed::new(&card(), Some(&private_key(PRIVATE).unwrap())).unwrap().encode().unwrap();
    let signed = Signed::decode(&bytes).unwrap();
    assert_eq!(signed.card().unwrap(), card());
    assert_eq!(signed.signer(), Some(PUBLIC));
    signed.check(None).unwrap();
    signed.check(Some(&public_key(PUBLIC).unwrap())).unwrap();
    let other = signed.check(Some(&public_key(OTHER).unwrap()));
    assert!(matches!(other, Err(Error::Signature(what)) if what.contains("another key")));
}

#[test]
fn no_byte_of_a_signed_card_can_be_changed() {
    let bytes = Signed::new(&card(), Some(&private_key(PRIVATE).unwrap())).unwrap().encode().unwrap();
    let end = bytes.windows(12).position(|part| part == b",\"signature\"").unwrap();
    for at in 0..end {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        // White space beside the card's value is not signed, and says nothing.
        let is_found = Signed::decode(&changed).map_or(true, |signed| signed.check(None).is_err());
        assert!(is_found, "byte {at}: {:?}", bytes[at] as char);
    }
}

#[test]
fn what_is_not_signed_is_said() {
    let bytes = Signed::new(&card(), None).unwrap().encode().unwrap();
    let signed = Signed::decode(&bytes).unwrap();
    assert_eq!(signed.signer(), None);
    signed.check(None).unwrap();
    let asked = signed.check(Some(&public_key(PUBLIC).unwrap()));
    assert!(matches!(asked, Err(Error::Signature(what)) if what.contains("nobody signed")));
}

#[test]
fn what_is_no_card() {
    for text in ["", "{}", "[]", "{\"card\": 3, \"signature\": 4}"] {
        assert!(matches!(Signed::decode(text.as_bytes()), Err(Error::Malformed(_))), "{text}");
    }
    let newer = Signed::decode(b"{\"card\": {\"format\": 2, \"more\": 1}, \"signature\": null}").unwrap();
    assert!(matches!(newer.card(), Err(Error::Newer(2))));
    let empty = Signed::decode(b"{\"card\": {\"format\": 1}, \"signature\": null}").unwrap();
    assert!(matches!(empty.card(), Err(Error::Malformed(_))));
    let strange = format!(
        "{{\"card\": {{}}, \"signature\": {{\"algorithm\": \"rsa\", \"public_key\": \"{PUBLIC}\", \"signature\": \"00\"}}}}"
    );
    assert!(matches!(Signed::decode(strange.as_bytes()).unwrap().check(None), Err(Error::Signature(_))));
}

#[test]
fn files_that_differ() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), b"abc").unwrap();
    std::fs::write(folder.path().join("netweight-card.json"), b"{}").unwrap();
    let mut card = card();
    card.files = digests(folder.path(), ["netweight-card.json", "a"]).unwrap();
    assert_eq!(card.files.len(), 1);
    assert_eq!(card.files[0].sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(differing(&card, &card.files), Vec::<String>::new());
    std::fs::write(folder.path().join("a"), b"abd").unwrap();
    std::fs::write(folder.path().join("b"), b"").unwrap();
    let found = digests(folder.path(), ["a", "b"]).unwrap();
    assert_eq!(differing(&card, &found), ["a", "b"]);
    assert!(matches!(digests(folder.path(), ["c"]), Err(Error::Io { .. })));
    // A refinement may be missing, but not be another.
    card.files = found[..1].to_vec();
    card.refinement = found[1..].to_vec();
    assert_eq!(differing(&card, &found), Vec::<String>::new());
    assert_eq!(differing(&card, &found[..1]), Vec::<String>::new());
    std::fs::write(folder.path().join("b"), b"x").unwrap();
    assert_eq!(differing(&card, &digests(folder.path(), ["a", "b"]).unwrap()), ["b"]);
}
