//! Tensors whose bytes are equal, such as tied embeddings: found before anything is encoded, so that the
//! archive does not depend on what happened to be encoded first.

use std::collections::{BTreeMap, HashMap};

use netweight_container::{Header, InputFile, Result, SameAs, SourceFile};

/// Smaller tensors are not worth a look.
const MIN_BYTES: u64 = 4096;
const N_SAMPLES: u64 = 4;
const SAMPLE_BYTES: usize = 64;
/// Tensors with equal samples but different bytes are compared with at most this many others.
const MAX_CANDIDATES: usize = 8;
const COMPARE_BYTES: usize = 1 << 20;
const FIRST_COMPARE_BYTES: usize = 1 << 14;

/// A shard of the source, its header checked.
pub(crate) struct SourceShard<'a> {
    pub(crate) file: &'a SourceFile,
    pub(crate) header: Header,
}

impl SourceShard<'_> {
    fn folder(&self) -> &str {
        self.file.relative.rfind('/').map_or("", |slash| &self.file.relative[..slash])
    }

    fn file_name(&self) -> &str {
        self.file.relative.rsplit('/').next().unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    shard_idx: usize,
    tensor_idx: usize,
}

/// Classes of tensors with equal bytes, members in order of shard and offset.
#[derive(Debug, Default)]
pub(crate) struct Ties {
    classes: Vec<Vec<Member>>,
}

impl Ties {
    /// Looks through shards, leaving out those that `is_opaque` says will have no payload for each tensor.
    pub(crate) fn find(shards: &[SourceShard<'_>], is_opaque: impl Fn(usize) -> bool) -> Result<Ties> {
        let mut groups: BTreeMap<(&str, &str, u64), Vec<Member>> = BTreeMap::new();
        for (shard_idx, shard) in shards.iter().enumerate().filter(|&(shard_idx, _)| !is_opaque(shard_idx)) {
            for (tensor_idx, entry) in shard.header.tensors.iter().enumerate() {
                if entry.len_bytes() >= MIN_BYTES {
                    let key = (shard.folder(), entry.dtype_name.as_str(), entry.len_bytes());
                    groups.entry(key).or_default().push(Member { shard_idx, tensor_idx });
                }
            }
        }
        groups.retain(|_, members| members.len() > 1);
        let mut ties = Ties::default();
        let mut inputs = Inputs { shards, open: None };
        for members in groups.values() {
            ties.add_group(&mut inputs, members)?;
        }
        ties.classes.retain(|class| class.len() > 1);
        Ok(ties)
    }

    /// The `same_as` of a shard. The first member of a class whose shard is not opaque keeps its payload;
    /// `is_opaque` must know every shard before this one.
    pub(crate) fn same_as(
        &self,
        shards: &[SourceShard<'_>],
        shard_idx: usize,
        is_opaque: impl Fn(usize) -> bool,
    ) -> BTreeMap<String, SameAs> {
        let mut same_as = BTreeMap::new();
        for class in &self.classes {
            let Some(&keeper) = class.iter().find(|member| !is_opaque(member.shard_idx)) else { continue };
            let keeper_shard = &shards[keeper.shard_idx];
            for &member in class.iter().filter(|&&member| member.shard_idx == shard_idx && member != keeper) {
                let name = shards[shard_idx].header.tensors[member.tensor_idx].name.clone();
                let tensor = keeper_shard.header.tensors[keeper.tensor_idx].name.clone();
                let shard = (keeper.shard_idx != shard_idx).then(|| keeper_shard.file_name().to_owned());
                same_as.insert(name, SameAs { tensor, shard });
            }
        }
        same_as
    }

    /// `members`: of one folder, dtype and size.
    fn add_group(&mut self, inputs: &mut Inputs<'_>, members: &[Member]) -> Result<()> {
        let mut by_samples: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for &member in members {
            let candidates = by_samples.entry(inputs.samples(member)?).or_default();
            let mut found = None;
            for &class_idx in candidates.iter().take(MAX_CANDIDATES) {
                if inputs.are_equal(self.classes[class_idx][0], member)? {
                    found = Some(class_idx);
                    break;
                }
            }
            match found {
                Some(class_idx) => self.classes[class_idx].push(member),
                None => {
                    candidates.push(self.classes.len());
                    self.classes.push(vec![member]);
                }
            }
        }
        Ok(())
    }
}

/// Opens shards as needed, keeping the last one: a checkpoint may have more shards than a process may open files.
struct Inputs<'a> {
    shards: &'a [SourceShard<'a>],
    open: Option<(usize, InputFile)>,
}

impl Inputs<'_> {
    fn samples(&mut self, member: Member) -> Result<Vec<u8>> {
        let header = &self.shards[member.shard_idx].header;
        let entry = &header.tensors[member.tensor_idx];
        if self.open.as_ref().is_none_or(|(shard_idx, _)| *shard_idx != member.shard_idx) {
            self.open = Some((member.shard_idx, self.open_shard(member.shard_idx)?));
        }
        let mut samples = vec![0; N_SAMPLES as usize * SAMPLE_BYTES];
        let Some((_, input)) = &self.open else { return Ok(samples) };
        // Steps of 1/4 from 1/8 on: the ends of a tensor are often padding, alike where the rest is not.
        for (sample_idx, sample) in (0u64..).zip(samples.chunks_exact_mut(SAMPLE_BYTES)) {
            let offset = entry.len_bytes() / (2 * N_SAMPLES) * (2 * sample_idx + 1);
            input.read_exact_at(header.header_bytes + entry.start + offset, sample)?;
        }
        Ok(samples)
    }

    fn are_equal(&self, a: Member, b: Member) -> Result<bool> {
        let (a_input, b_input) = (self.open_shard(a.shard_idx)?, self.open_shard(b.shard_idx)?);
        let (a_start, len_bytes) = self.place(a);
        let (b_start, _) = self.place(b);
        let (mut a_bytes, mut b_bytes) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
        let (mut done, mut step) = (0, FIRST_COMPARE_BYTES);
        while done < len_bytes {
            let n = usize::try_from(len_bytes - done).map_or(step, |left| left.min(step));
            a_input.read_exact_at(a_start + done, &mut a_bytes[..n])?;
            b_input.read_exact_at(b_start + done, &mut b_bytes[..n])?;
            if a_bytes[..n] != b_bytes[..n] {
                return Ok(false);
            }
            done += n as u64;
            step = COMPARE_BYTES;
        }
        Ok(true)
    }

    fn open_shard(&self, shard_idx: usize) -> Result<InputFile> {
        InputFile::open(&self.shards[shard_idx].file.path)
    }

    fn place(&self, member: Member) -> (u64, u64) {
        let header = &self.shards[member.shard_idx].header;
        let entry = &header.tensors[member.tensor_idx];
        (header.header_bytes + entry.start, entry.len_bytes())
    }
}
