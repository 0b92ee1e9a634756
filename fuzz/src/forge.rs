//! Makes files whose digests and checksums hold, out of parts that need not make sense: what lies behind the
//! checks is reached, too.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use netweight_codec::checksum;
use netweight_container::{ALIGNMENT, Digest, Header, Manifest, Mode, OPAQUE_NAME, chunks_offset, n_chunks};

use crate::input::Input;

const MANIFEST_KEY: &str = ",\"netweight.manifest\"";

/// Where the last tensor of a header's JSON ends, as far as that can be made out.
pub(crate) fn data_bytes(json: &[u8]) -> u64 {
    let Ok(serde_json::Value::Object(tensors)) = serde_json::from_slice(json) else { return 0 };
    tensors.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64()).max().unwrap_or(0)
}

/// A manifest tensor's bytes before the digest.
pub(crate) fn manifest_body(json: &[u8], header: &[u8], is_zlib: bool) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    let deflated = encoder.write_all(header).and_then(|()| encoder.finish()).expect("room in memory");
    let zlib = if is_zlib || header.is_empty() { header } else { &deflated };
    [&(json.len() as u32).to_le_bytes()[..], json, zlib].concat()
}

/// The JSON and the zlib stream of [`manifest_body`].
pub(crate) fn split_manifest(body: &[u8]) -> (&[u8], &[u8]) {
    let (json_len, rest) = body.split_first_chunk::<4>().expect("a manifest");
    rest.split_at(u32::from_le_bytes(*json_len) as usize)
}

/// `netweight.json` from the bytes before its digest.
pub(crate) fn folder_manifest(body: &[u8]) -> Vec<u8> {
    [body, format!("\"digest\": \"{}\"\n}}\n", Digest::of(&[body])).as_bytes()].concat()
}

/// The reverse of [`folder_manifest`].
pub(crate) fn before_digest(whole: &[u8]) -> &[u8] {
    let text = std::str::from_utf8(whole).expect("UTF-8");
    &whole[..text.rfind("\"digest\"").expect("a digest")]
}

/// An archive shard from four parts, of which all but the last end at a zero byte: the JSON of its header up to the
/// manifest; the manifest's JSON, in which `@h` and `@t` stand for the right sizes of the original's header and of
/// the original; the JSON of the original's header, nothing in mode `opaque`; the payloads.
pub(crate) fn archive(parts: &[u8]) -> Vec<u8> {
    let mut parts = Input::new(parts);
    let (archive_json, manifest_json, original_json, data) = (parts.text(), parts.text(), parts.text(), parts.rest());
    let header_bytes = original_json.len() as u64 + 8;
    let sizes = [("@h", header_bytes), ("@t", header_bytes.saturating_add(data_bytes(original_json)))];
    let manifest_json = sizes.iter().fold(String::from_utf8_lossy(manifest_json).into_owned(), |json, (mark, size)| {
        json.replace(mark, &size.to_string())
    });
    let original_header = [&(original_json.len() as u64).to_le_bytes()[..], original_json].concat();
    let original_header = if original_json.is_empty() { &[][..] } else { &original_header };
    let mut body = manifest_body(manifest_json.as_bytes(), original_header, false);
    let (start, size) = (data.len() as u64, Manifest::sealed_bytes(&body));
    let comma = if archive_json.ends_with(b"{") { "" } else { "," };
    let manifest_entry = format!(
        "{comma}\"netweight.manifest\":{{\"dtype\":\"U8\",\"shape\":[{size}],\"data_offsets\":[{start},{}]}}}}",
        start + size
    );
    let mut header = [&[0; 8], archive_json, manifest_entry.as_bytes()].concat();
    header.resize(header.len().next_multiple_of(64), b' ');
    let json_len = header.len() as u64 - 8;
    header[..8].copy_from_slice(&json_len.to_le_bytes());
    Manifest::seal(&header, &mut body);
    let mut bytes = [&header[..], data, &body].concat();
    repair_checksums(&mut bytes, header.len());
    bytes
}

/// The reverse of [`archive`].
pub(crate) fn archive_parts(bytes: &[u8]) -> Vec<u8> {
    let json_len = u64::from_le_bytes(*bytes.first_chunk().expect("a header"));
    let (header, data) = bytes.split_at(8 + json_len as usize);
    let parsed = Header::parse(header, bytes.len() as u64).expect("an archive");
    let (data, manifest) = data.split_at(parsed.tensors.last().expect("a manifest").start as usize);
    let decoded = Manifest::decode(header, manifest).expect("a manifest");
    let json = String::from_utf8_lossy(split_manifest(manifest).0).into_owned();
    let (original, is_opaque) = (&decoded.original, decoded.mode == Mode::Opaque);
    let marked = json
        .replace(&format!("\"bytes\":{}", original.bytes), "\"bytes\":@t")
        .replace(&format!("\"header_bytes\":{}", original.header_bytes), "\"header_bytes\":@h");
    let archive_json = std::str::from_utf8(&header[8..]).expect("JSON");
    let end = archive_json.find(MANIFEST_KEY).expect("a manifest");
    let manifest_json = if is_opaque { json } else { marked };
    let original_json = decoded.header.get(8..).unwrap_or(&[]);
    [&archive_json.as_bytes()[..end], b"\0", manifest_json.as_bytes(), b"\0", original_json, b"\0", data].concat()
}

/// Makes the checksums of all chunks hold that can be found.
fn repair_checksums(bytes: &mut [u8], header_bytes: usize) -> Option<()> {
    let (header, data) = bytes.split_at_mut(header_bytes);
    let parsed = Header::parse(header, (header_bytes + data.len()) as u64).ok()?;
    let (last, entries) = parsed.tensors.split_last()?;
    let manifest = Manifest::decode(header, data.get(last.start as usize..last.end as usize)?).ok()?;
    let sizes: Vec<(String, u64)> = if manifest.mode == Mode::Opaque {
        vec![(OPAQUE_NAME.to_owned(), manifest.original.bytes)]
    } else {
        let original = Header::parse(&manifest.header, manifest.original.bytes).ok()?;
        original.tensors.into_iter().map(|entry| (entry.name.clone(), entry.len_bytes())).collect()
    };
    for (name, len_bytes) in sizes {
        let Some(entry) = entries.iter().find(|entry| entry.name == name) else { continue };
        let payload = &mut data[entry.start as usize..entry.end as usize];
        let is_resident = manifest.resident.as_ref().is_some_and(|resident| resident.tensors.contains(&name));
        match is_resident {
            true => repair_payload(payload, 1, ALIGNMENT), // More than one group is more than an input is long.
            false => repair_payload(payload, n_chunks(len_bytes, manifest.chunk_bytes), 1),
        }
    }
    Some(())
}

fn repair_payload(payload: &mut [u8], n_chunks: u64, chunk_alignment: u64) {
    if n_chunks > payload.len() as u64 {
        return;
    }
    let split = payload.split_at_mut_checked(chunks_offset(n_chunks, chunk_alignment) as usize);
    let Some((directory, mut chunks)) = split else { return };
    for entry in directory.chunks_exact_mut(12).take(n_chunks as usize) {
        let (len_bytes, crc) = entry.split_at_mut(4);
        let len_bytes = u32::from_le_bytes(*len_bytes.first_chunk().expect("four bytes"));
        let Some((chunk, rest)) = chunks.split_at_mut_checked(len_bytes as usize) else { return };
        crc.copy_from_slice(&checksum(chunk).to_le_bytes());
        chunks = rest;
    }
}
