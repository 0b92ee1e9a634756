//! Headers survive a round trip; damage of any byte, and a cut anywhere, is an error and never a panic.

use netweight_container::ErrorKind;

use super::*;
use crate::types::Type;

/// A small file, with every kind of value that is written.
pub(crate) fn small() -> Vec<u8> {
    let metadata = [
        ("general.architecture", MetaValue::Text("llama".to_owned())),
        ("a.number", MetaValue::U32(7)),
        ("a.float", MetaValue::F32(0.5)),
        ("a.flag", MetaValue::Bool(true)),
        ("a.texts", MetaValue::Texts(vec!["x".to_owned(), String::new(), "zß".to_owned()])),
        ("a.ints", MetaValue::I32s(vec![-1, 5])),
        ("a.floats", MetaValue::F32s(vec![1.5, -2.0])),
    ];
    let metadata: Vec<(String, MetaValue)> = metadata.map(|(key, value)| (key.to_owned(), value)).into();
    let tensor = |name: &str, shape: &[u64], ty| OutTensor { name: name.to_owned(), shape: shape.to_vec(), ty };
    let tensors = [tensor("w", &[2, 32], Type::Q8_0), tensor("v", &[3], Type::F32)];
    let layout = Layout::new(&metadata, &tensors).unwrap();
    let mut file = layout.front;
    file.resize(layout.file_bytes as usize, 9);
    file
}

fn parse(file: &[u8]) -> netweight_container::Result<Gguf> {
    Gguf::parse(file, file.len() as u64)
}

#[test]
fn what_is_written_is_read() {
    let file = small();
    let gguf = parse(&file).unwrap();
    let metadata = &gguf.metadata;
    assert_eq!(metadata.text("general.architecture").unwrap(), Some("llama"));
    assert_eq!(metadata.number("a.number").unwrap(), Some(7));
    assert_eq!(metadata.float("a.float").unwrap(), Some(0.5));
    assert_eq!(metadata.flag("a.flag").unwrap(), Some(true));
    assert_eq!(metadata.texts("a.texts").unwrap(), Some(vec!["x", "", "zß"]));
    assert_eq!(metadata.ints("a.ints").unwrap(), Some(vec![-1, 5]));
    assert_eq!(metadata.floats("a.floats").unwrap(), Some(vec![1.5, -2.0]));
    assert_eq!(metadata.number("nobody").unwrap(), None);
    assert_eq!(metadata.keys().count(), 7);
    let (w, v) = (&gguf.tensors["w"], &gguf.tensors["v"]);
    assert_eq!((w.shape.as_slice(), w.ty, w.n_bytes), ([2, 32].as_slice(), Type::Q8_0, 68));
    assert_eq!((v.shape.as_slice(), v.ty, v.n_bytes), ([3].as_slice(), Type::F32, 12));
    assert_eq!(v.offset, w.offset + 96);
}

#[test]
fn values_of_another_type_are_errors() {
    let file = small();
    let metadata = parse(&file).unwrap().metadata;
    assert!(metadata.number("a.float").is_err());
    assert!(metadata.number("a.texts").is_err());
    assert!(metadata.float("a.number").is_err());
    assert!(metadata.flag("a.number").is_err());
    assert!(metadata.text("a.texts").is_err());
    assert!(metadata.texts("a.ints").is_err());
    assert!(metadata.ints("a.floats").is_err());
    assert!(metadata.floats("a.ints").is_err());
}

#[test]
fn a_cut_anywhere_is_truncation() {
    let file = small();
    for n_bytes in 4..file.len() - 20 {
        let error = parse(&file[..n_bytes]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated, "{n_bytes}: {error}");
    }
}

#[test]
fn any_byte_may_be_anything() {
    let file = small();
    let mut n_errors = 0;
    for at in 0..file.len() {
        for byte in (0..8).map(|bit| file[at] ^ 1 << bit).chain([0, 0xff]) {
            let mut damaged = file.clone();
            damaged[at] = byte;
            if let Ok(gguf) = parse(&damaged) {
                for key in gguf.metadata.keys() {
                    let metadata = &gguf.metadata;
                    let _ = (metadata.number(key), metadata.float(key), metadata.flag(key), metadata.text(key));
                    let _ = (metadata.texts(key), metadata.ints(key), metadata.floats(key));
                }
            } else {
                n_errors += 1;
            }
        }
    }
    assert!(n_errors > 1000, "{n_errors}");
}

#[test]
fn what_a_header_may_not_say() {
    // Version, counts, then one value and two tensors, all by hand.
    let check = |version: u32, alignment: u32, dimensions: &[u64], type_id: u32, offset: u64, expected: ErrorKind| {
        let mut file = b"GGUF".to_vec();
        file.extend(version.to_le_bytes());
        file.extend(2u64.to_le_bytes());
        file.extend(1u64.to_le_bytes());
        metadata::write_string("general.alignment", &mut file);
        MetaValue::U32(alignment).write(&mut file);
        for (name, shape, ty, start) in [("a", &[32u64][..], 0u32, 0u64), ("b", dimensions, type_id, offset)] {
            metadata::write_string(name, &mut file);
            file.extend((shape.len() as u32).to_le_bytes());
            file.extend(shape.iter().flat_map(|n| n.to_le_bytes()));
            file.extend(ty.to_le_bytes());
            file.extend(start.to_le_bytes());
        }
        file.resize(1024, 0);
        match parse(&file) {
            Ok(_) => panic!("{version} {alignment} {dimensions:?} {type_id} {offset}"),
            Err(error) => assert_eq!(error.kind(), expected, "{error}"),
        }
    };
    check(1, 32, &[32], 0, 128, ErrorKind::Unsupported);
    check(3 << 24, 32, &[32], 0, 128, ErrorKind::Unsupported); // big-endian
    check(3, 0, &[32], 0, 128, ErrorKind::Corrupt);
    check(3, 48, &[32], 0, 128, ErrorKind::Corrupt);
    check(3, 1 << 31, &[32], 0, 128, ErrorKind::Corrupt);
    check(3, 32, &[32], 0, 96, ErrorKind::Corrupt); // over another tensor
    check(3, 32, &[32], 0, 130, ErrorKind::Corrupt); // not aligned
    check(3, 32, &[32], 99, 128, ErrorKind::Unsupported);
    check(3, 32, &[33], 8, 128, ErrorKind::Corrupt); // no whole blocks
    check(3, 32, &[16, 2], 8, 128, ErrorKind::Corrupt);
    check(3, 32, &[u64::MAX, 2], 0, 128, ErrorKind::Corrupt);
    check(3, 32, &[1, 1, 1, 1, 1], 0, 128, ErrorKind::Corrupt);
    check(3, 32, &[1 << 40], 0, 128, ErrorKind::Truncated);
    check(3, 32, &[32], 0, u64::MAX - 31, ErrorKind::Corrupt);
    assert_eq!(parse(b"PK\x03\x04 and so on").unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_large_header_is_read_in_steps() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.gguf");
    let texts: Vec<String> = (0..300_000).map(|idx| format!("token {idx}")).collect();
    let layout = Layout::new(&[("a".to_owned(), MetaValue::Texts(texts.clone()))], &[]).unwrap();
    std::fs::write(&path, &layout.front).unwrap();
    let input = netweight_container::InputFile::open(&path).unwrap();
    let gguf = Gguf::read(&input).unwrap();
    assert!(gguf.metadata.texts("a").unwrap().unwrap() == texts);
    std::fs::write(&path, &layout.front[..layout.front.len() / 2]).unwrap();
    let input = netweight_container::InputFile::open(&path).unwrap();
    assert_eq!(Gguf::read(&input).unwrap_err().kind(), ErrorKind::Truncated);
}
