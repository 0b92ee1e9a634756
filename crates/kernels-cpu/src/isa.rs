//! Instruction sets. Goes in: what the CPU and the system can do, and `NETWEIGHT_ISA`. Comes out: an [`Isa`], which
//! every kernel takes. It is also a proof: one exists only for an instruction set that this machine runs, so a
//! kernel may go from it to a function with the features of its row without another check. Next: `lanes.rs`.

use std::sync::OnceLock;

use crate::error::{Error, Result};

/// A row of the table of instruction sets, which this machine can run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(&'static Row);

/// The features that a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The definition, in plain Rust.
    Scalar,
    /// aarch64 NEON.
    Neon,
    /// avx2, fma, f16c, bmi2, popcnt.
    Avx2,
    /// The row above and avx512 f, bw, vl, dq, vbmi, vbmi2, vnni (every CPU with vbmi2 has it).
    Avx512,
    /// The row above and amx-tile, amx-bf16, amx-int8, with the system's permission to use tile registers, which compute what
    /// `linear/scalar.rs` defines.
    Amx,
}

#[derive(PartialEq, Eq)]
struct Row {
    kind: Kind,
    name: &'static str,
}

/// All rows, slowest first.
static ROWS: [Row; 5] = [
    Row { kind: Kind::Scalar, name: "scalar" },
    Row { kind: Kind::Neon, name: "neon" },
    Row { kind: Kind::Avx2, name: "avx2" },
    Row { kind: Kind::Avx512, name: "avx512" },
    Row { kind: Kind::Amx, name: "amx" },
];

impl Isa {
    /// The rows that this machine can run, slowest first; `scalar` always among them.
    pub fn available() -> Vec<Isa> {
        ROWS.iter().filter(|row| row.is_available()).map(Isa).collect()
    }

    /// The definition of every kernel in plain Rust, which runs anywhere.
    pub fn scalar() -> Isa {
        Isa(&ROWS[0])
    }

    /// The fastest row that this machine can run; or the one that the environment variable `NETWEIGHT_ISA` names, if
    /// this machine has it (who must tell a user of a wrong name asks [`Isa::from_env`] first).
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::from_env().unwrap_or_else(|_| Isa::fastest()))
    }

    /// The row that `NETWEIGHT_ISA` names, or the fastest where it is empty or not set. Errors as [`Isa::choose`].
    pub fn from_env() -> Result<Isa> {
        let name = std::env::var("NETWEIGHT_ISA").unwrap_or_default();
        Isa::choose(Some(name.as_str()).filter(|name| !name.is_empty()))
    }

    /// The row of that name, or the fastest for `None`.
    ///
    /// # Errors
    /// [`Error::UnknownIsa`] if no row has that name, [`Error::UnavailableIsa`] if this machine cannot run it.
    pub fn choose(name: Option<&str>) -> Result<Isa> {
        let Some(name) = name else { return Ok(Isa::fastest()) };
        let row = ROWS.iter().find(|row| row.name == name);
        let row = row.ok_or_else(|| Error::UnknownIsa { name: name.to_owned() })?;
        if row.is_available() { Ok(Isa(row)) } else { Err(Error::UnavailableIsa { name: row.name }) }
    }

    /// `scalar`, `neon`, `avx2`, `avx512` or `amx`.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// The features that are there wherever this value is.
    pub(crate) fn kind(self) -> Kind {
        self.0.kind
    }

    fn fastest() -> Isa {
        Isa(ROWS.iter().rfind(|row| row.is_available()).unwrap_or(&ROWS[0]))
    }
}

impl std::fmt::Debug for Isa {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Names of all rows, for messages.
pub(crate) fn names() -> String {
    ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
}

/// Names of the rows that this machine runs, for messages.
pub(crate) fn available_names() -> String {
    Isa::available().iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ")
}

impl Row {
    fn is_available(&self) -> bool {
        match self.kind {
            Kind::Scalar => true,
            Kind::Neon => detect::neon(),
            Kind::Avx2 => detect::avx2(),
            Kind::Avx512 => detect::avx512(),
            Kind::Amx => detect::amx(),
        }
    }
}

/// Whether this machine has tile registers for bf16 and int8, and its system lets this process use them.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_tiles() -> bool {
    static HAS_TILES: OnceLock<bool> = OnceLock::new();
    *HAS_TILES.get_or_init(amx::is_ready)
}

#[cfg(target_arch = "x86_64")]
mod detect {
    pub fn neon() -> bool {
        false
    }

    pub fn avx2() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
    }

    pub fn avx512() -> bool {
        avx2()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("avx512vnni")
    }

    pub fn amx() -> bool {
        avx512() && crate::linear::has_exact_tiles()
    }
}

#[cfg(target_arch = "aarch64")]
mod detect {
    pub fn neon() -> bool {
        std::arch::is_aarch64_feature_detected!("neon")
    }

    pub fn avx2() -> bool {
        false
    }

    pub fn avx512() -> bool {
        false
    }

    pub fn amx() -> bool {
        false
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod detect {
    pub fn neon() -> bool {
        false
    }

    pub fn avx2() -> bool {
        false
    }

    pub fn avx512() -> bool {
        false
    }

    pub fn amx() -> bool {
        false
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[allow(unsafe_code)]
mod amx {
    use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};

    /// Bits of CPUID leaf 7, EDX (Intel SDM volume 2, CPUID).
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;
    /// `arch_prctl` asks for a register state that is off until wanted (Linux, Documentation/arch/x86/xstate.rst).
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;

    /// Whether the CPU has tiles of bf16 and int8 and the system lets this process use them. The permission holds for all its
    /// threads, also those begun before (they belong to the process).
    pub fn is_ready() -> bool {
        if __get_cpuid_max(0).0 < 7 {
            return false;
        }
        let needed = AMX_BF16 | AMX_TILE | AMX_INT8;
        let has_tiles = __cpuid_count(7, 0).edx & needed == needed;
        // SAFETY: the call takes two integers and touches no memory; where the kernel does not know it, it says so.
        has_tiles && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
    }
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
mod amx {
    /// Other systems have their own ways to ask for tile registers, and none is written here.
    pub fn is_ready() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_row_or_a_clear_error() {
        for isa in Isa::available() {
            assert_eq!(Isa::choose(Some(isa.name())).unwrap(), isa);
        }
        assert_eq!(Isa::choose(None).unwrap(), *Isa::available().last().unwrap());
        assert_eq!(Isa::available()[0], Isa::scalar());
        let message = Isa::choose(Some("sse9")).unwrap_err().to_string();
        assert!(message.contains("`sse9`") && message.contains("scalar, neon, avx2, avx512, amx"), "{message}");
        let other = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
        let message = Isa::choose(Some(other)).unwrap_err().to_string();
        assert!(message.contains(other) && message.contains("scalar"), "{message}");
    }
}
