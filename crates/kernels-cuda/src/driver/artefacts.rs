//! The kernels, compiled ahead by tools/build-cuda-kernels.py, and which of them a GPU gets.

use std::io::Read;

use crate::error::{Error, Result};

/// All kernels, compiled for one kind of GPU.
#[derive(Debug)]
pub struct Artefact {
    /// "sm_80.cubin"
    pub name: &'static str,
    kind: Kind,
    capability: [u32; 2],
    deflated: &'static [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Machine code, which GPUs of the same major capability and the same or a higher minor one run.
    Cubin,
    /// Machine code with instructions of this capability alone.
    CubinOfOne,
    /// Text that the driver compiles for this capability and every higher one.
    Ptx,
}

macro_rules! artefact {
    ($name:literal, $kind:ident, $capability:expr) => {
        Artefact {
            name: $name,
            kind: Kind::$kind,
            capability: $capability,
            deflated: include_bytes!(concat!("../../artefacts/", $name, ".z")),
        }
    };
}

/// As the TARGETS of tools/build-cuda-kernels.py.
pub static ALL: [Artefact; 7] = [
    artefact!("sm_80.cubin", Cubin, [8, 0]),
    artefact!("sm_86.cubin", Cubin, [8, 6]),
    artefact!("sm_89.cubin", Cubin, [8, 9]),
    artefact!("sm_90a.cubin", CubinOfOne, [9, 0]),
    artefact!("sm_100.cubin", Cubin, [10, 0]),
    artefact!("sm_120.cubin", Cubin, [12, 0]),
    artefact!("compute_80.ptx", Ptx, [8, 0]),
];

/// What runs on a GPU, best first: cubins of its major capability, the highest minor one first, then PTX. The driver has
/// the last word: cubins are for cards, and GPUs of the same capability that sit in a system on a chip refuse them.
///
/// # Errors
/// `InvalidArgument` where `NETWEIGHT_CUDA_IMAGE` names none.
pub fn candidates(capability: [u32; 2]) -> Result<Vec<&'static Artefact>> {
    let wanted = std::env::var("NETWEIGHT_CUDA_IMAGE").ok();
    choose(capability, wanted.as_deref())
}

fn choose(capability: [u32; 2], wanted: Option<&str>) -> Result<Vec<&'static Artefact>> {
    if let Some(wanted) = wanted {
        let found = ALL.iter().find(|artefact| artefact.name == wanted);
        let names = ALL.iter().map(|artefact| artefact.name).collect::<Vec<_>>().join(", ");
        let none = || Error::InvalidArgument(format!("NETWEIGHT_CUDA_IMAGE is {wanted}; there are {names}"));
        return Ok(vec![found.ok_or_else(none)?]);
    }
    let mut found: Vec<&Artefact> = ALL.iter().filter(|artefact| artefact.runs_on(capability)).collect();
    found.sort_by_key(|artefact| (artefact.kind == Kind::Ptx, std::cmp::Reverse(artefact.capability)));
    Ok(found)
}

impl Artefact {
    fn runs_on(&self, capability: [u32; 2]) -> bool {
        match self.kind {
            Kind::Cubin => self.capability[0] == capability[0] && self.capability[1] <= capability[1],
            Kind::CubinOfOne => self.capability == capability,
            Kind::Ptx => self.capability <= capability,
        }
    }

    /// What the driver loads.
    ///
    /// # Errors
    /// `InvalidArgument`, if this program's file were damaged.
    pub fn image(&self) -> Result<Vec<u8>> {
        let mut image = Vec::new();
        let read = flate2::read::ZlibDecoder::new(self.deflated).read_to_end(&mut image);
        read.map_err(|error| Error::InvalidArgument(format!("{}: {error}", self.name)))?;
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(major: u32, minor: u32, expected: &[&str]) {
        let names: Vec<&str> = choose([major, minor], None).unwrap().iter().map(|artefact| artefact.name).collect();
        assert_eq!(names, expected, "{major}.{minor}");
    }

    #[test]
    fn candidates_come_best_first() {
        check(8, 0, &["sm_80.cubin", "compute_80.ptx"]);
        check(8, 6, &["sm_86.cubin", "sm_80.cubin", "compute_80.ptx"]);
        check(8, 7, &["sm_86.cubin", "sm_80.cubin", "compute_80.ptx"]);
        check(8, 9, &["sm_89.cubin", "sm_86.cubin", "sm_80.cubin", "compute_80.ptx"]);
        check(9, 0, &["sm_90a.cubin", "compute_80.ptx"]);
        check(10, 0, &["sm_100.cubin", "compute_80.ptx"]);
        check(10, 3, &["sm_100.cubin", "compute_80.ptx"]);
        check(11, 0, &["compute_80.ptx"]);
        check(12, 0, &["sm_120.cubin", "compute_80.ptx"]);
        check(12, 1, &["sm_120.cubin", "compute_80.ptx"]);
        check(13, 0, &["compute_80.ptx"]);
        check(7, 5, &[]);
    }

    #[test]
    fn one_can_be_named() {
        assert_eq!(choose([9, 0], Some("sm_80.cubin")).unwrap()[0].name, "sm_80.cubin");
        let error = choose([9, 0], Some("sm_70.cubin")).unwrap_err().to_string();
        assert!(error.contains("there are sm_80.cubin, "), "{error}");
    }

    /// A cubin is an ELF file whose flags say for which capability it is, in a byte that moved with CUDA's ABI 8.
    #[test]
    fn images_are_what_their_names_say() {
        for artefact in &ALL {
            let image = artefact.image().unwrap();
            if artefact.kind == Kind::Ptx {
                let text = std::str::from_utf8(image.strip_suffix(&[0]).expect("a zero byte at the end")).unwrap();
                assert!(text.contains("\n.target sm_80\n"), "{}", artefact.name);
                continue;
            }
            assert_eq!(&image[..4], b"\x7fELF", "{}", artefact.name);
            let flags_byte = if image[8] >= 8 { 49 } else { 48 };
            let [major, minor] = artefact.capability;
            assert_eq!(u32::from(image[flags_byte]), 10 * major + minor, "{}", artefact.name);
        }
    }
}
