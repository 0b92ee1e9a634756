//! Rotary position embeddings: go in their parameters, come out frequencies and the tables that backends rotate by.
//!
//! A head's first `rotary_dim` dimensions are rotated in pairs `(i, i + rotary_dim / 2)` by `position * inv_freq[i]`.
//! Kinds and their formulas are those of transformers' `modeling_rope_utils.py`, computed in f32 in the same order;
//! powers, sines and cosines come from `libm` in f64, so that tables have the same bits on every machine.
//! Next in the flow: tensors.rs.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::families::{Family, Ropes};
use crate::fields::Fields;
use crate::spec::limits::MAX_POSITIONS;

/// One rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Dimensions of a head that are rotated, the first ones; even.
    pub rotary_dim: usize,
    /// Angle per position of each pair.
    pub inv_freq: Vec<f32>, // (rotary_dim / 2)
    /// Angles for contexts longer than the model was first trained for (LongRoPE).
    pub long: Option<LongRope>,
    /// What cosines and sines are multiplied with.
    pub attention_factor: f32,
}

/// The second set of angles of LongRoPE, <https://arxiv.org/abs/2402.13753>.
#[derive(Clone, Debug, PartialEq)]
pub struct LongRope {
    /// A sequence of more tokens than this takes the long set, for all its positions.
    pub longer_than: usize,
    /// Angle per position of each pair.
    pub inv_freq: Vec<f32>, // (rotary_dim / 2)
}

impl Rope {
    /// Rows of a table for positions below `context_len`: one for each position, then one for each in a long sequence.
    pub fn n_rows(&self, context_len: usize) -> usize {
        if self.long.is_some() { 2 * context_len } else { context_len }
    }

    /// The row for a position in a sequence that is to reach `sequence_len` tokens.
    pub fn row(&self, context_len: usize, position: usize, sequence_len: usize) -> usize {
        let is_long = self.long.as_ref().is_some_and(|long| sequence_len > long.longer_than);
        if is_long { context_len + position } else { position }
    }

    /// A row for each position: `rotary_dim / 2` cosines, then as many sines, multiplied with the attention factor.
    pub fn table(&self, context_len: usize) -> Vec<f32> /* (n_rows, rotary_dim) */ {
        let mut table = Vec::with_capacity(self.n_rows(context_len) * self.rotary_dim);
        let long = self.long.as_ref().map(|long| &long.inv_freq);
        for inv_freq in [Some(&self.inv_freq), long].into_iter().flatten() {
            for position in 0..context_len {
                // The angle is rounded to f32, as it is where these models were trained.
                let angles = || inv_freq.iter().map(|freq| f64::from(position as f32 * freq));
                table.extend(angles().map(|angle| libm::cos(angle) as f32 * self.attention_factor));
                table.extend(angles().map(|angle| libm::sin(angle) as f32 * self.attention_factor));
            }
        }
        table
    }
}

/// Reads all rotary embeddings, and which of them each layer has.
pub(crate) fn read(
    family: &Family,
    fields: &Fields,
    windows: &[Option<usize>], // (n_layers)
    head_dim: usize,
    max_positions: usize,
) -> Result<(Vec<Rope>, Vec<usize> /* (n_layers) */)> {
    let base = Base { fields, head_dim, max_positions, may_be_partial: false, yarn_is_longrope: false };
    match family.ropes {
        Ropes::Same { may_be_partial, yarn_is_longrope } => {
            let base = Base { may_be_partial, yarn_is_longrope, ..base };
            Ok((vec![base.same()?], vec![0; windows.len()]))
        }
        Ropes::ByWindow => {
            let ropes = vec![base.by_window("full_attention")?, base.by_window("sliding_attention")?];
            Ok((ropes, windows.iter().map(|window| usize::from(window.is_some())).collect()))
        }
    }
}

/// What all rotary embeddings of a model share.
struct Base<'a> {
    fields: &'a Fields<'a>,
    head_dim: usize,
    max_positions: usize,
    may_be_partial: bool,
    yarn_is_longrope: bool,
}

/// The object of parameters as transformers 4 writes it.
const OLD: &str = "rope_scaling";
/// And as transformers 5 does.
const NEW: &str = "rope_parameters";

impl Base<'_> {
    /// One for all layers. As in transformers, the older spelling goes first where a file has both.
    fn same(&self) -> Result<Rope> {
        let old = self.fields.object(OLD)?.filter(|object| !object.is_empty());
        let (name, object) = match old {
            Some(object) => (OLD, Some(object)),
            None => (NEW, self.fields.object(NEW)?),
        };
        if let Some(object) = object.filter(|object| object.contains_key("full_attention")) {
            return Err(Error::unsupported(self.fields.path(name), Value::Object(object.clone())));
        }
        self.rope(name, object, "rope_theta")
    }

    /// The one of layers with or without a window: an entry of `rope_parameters`, or in the older spelling
    /// `rope_local_base_freq` alone for the former and `rope_scaling` and `rope_theta` for the latter.
    fn by_window(&self, layer_type: &str) -> Result<Rope> {
        let is_full = layer_type == "full_attention";
        let theta = if is_full { "rope_theta" } else { "rope_local_base_freq" };
        if let Some(old) = self.fields.object(OLD)?.filter(|object| is_full && !object.is_empty()) {
            return self.rope(OLD, Some(old), theta);
        }
        let Some(both) = self.fields.object(NEW)? else { return self.rope(NEW, None, theta) };
        let path = self.fields.path(NEW);
        let entry = Fields::new(both, &[], &path).object(layer_type)?;
        self.rope(&format!("{NEW}.{layer_type}"), entry, theta)
    }

    fn rope(&self, name: &str, object: Option<&Map<String, Value>>, theta: &str) -> Result<Rope> {
        let empty = Map::new();
        let path = self.fields.path(name);
        let parameters = Parameters {
            own: Fields::new(object.unwrap_or(&empty), &[], &path),
            model: self.fields,
            max_positions: self.max_positions,
        };
        let theta = match parameters.own.positive_if_any("rope_theta")? {
            Some(theta) => theta,
            None => self.fields.positive(theta)?,
        };
        let dim = self.rotated(&parameters)?;
        // Powers are rounded to f32 one by one, as torch does with its exponents in f32.
        let exponent = |pair_idx: usize| f64::from((2 * pair_idx) as f32 / dim as f32);
        let power = |pair_idx: usize| libm::pow(f64::from(theta as f32), exponent(pair_idx)) as f32;
        let powers: Vec<f32> = (0..dim.div_ceil(2)).map(power).collect();
        let (inv_freq, long, attention_factor) = self.by_kind(&parameters, theta, dim, &powers)?;
        let all = || inv_freq.iter().chain(long.iter().flat_map(|long| &long.inv_freq)).chain([&attention_factor]);
        if !all().all(|number| number.is_finite()) {
            return Err(Error::unsupported(path, "frequencies beyond 32-bit floats"));
        }
        Ok(Rope { rotary_dim: 2 * inv_freq.len(), inv_freq, long, attention_factor })
    }

    /// Dimensions that count as rotated; transformers rounds an odd number up to a whole pair, but does not divide
    /// exponents by the rounded one.
    fn rotated(&self, parameters: &Parameters) -> Result<usize> {
        let name = "partial_rotary_factor";
        let own = parameters.own.positive_if_any(name)?;
        let factor = own.map_or_else(|| self.fields.positive_if_any(name), |factor| Ok(Some(factor)))?.unwrap_or(1.0);
        if factor != 1.0 && !self.may_be_partial {
            return Err(Error::unsupported(parameters.own.path(name), factor));
        }
        let dim = (self.head_dim as f64 * factor) as usize;
        let fits = factor <= 1.0 && dim > 0;
        if fits { Ok(dim) } else { Err(Error::invalid(parameters.own.path(name), factor, "a part of a head")) }
    }

    fn by_kind(
        &self,
        parameters: &Parameters,
        theta: f64,
        dim: usize,
        powers: &[f32], // (dim / 2, rounded up)
    ) -> Result<(Vec<f32>, Option<LongRope>, f32)> {
        let plain = || powers.iter().map(|power| 1.0 / power);
        let own = &parameters.own;
        let kind = own.text("rope_type")?.map_or_else(|| own.text("type"), |kind| Ok(Some(kind)))?;
        match kind.as_deref().unwrap_or("default") {
            "default" => Ok((plain().collect(), None, 1.0)),
            "linear" => {
                let factor = own.positive("factor")? as f32;
                Ok((plain().map(|freq| freq / factor).collect(), None, 1.0))
            }
            "llama3" => Ok((parameters.llama3(plain().collect())?, None, 1.0)),
            "yarn" if !self.yarn_is_longrope => parameters.yarn(theta, dim, powers),
            "longrope" | "su" | "yarn" => parameters.longrope(powers),
            other => Err(Error::unsupported(own.path("rope_type"), other)),
        }
    }
}

/// The parameters of one rotary embedding, and what they fall back to.
struct Parameters<'a> {
    own: Fields<'a>,
    model: &'a Fields<'a>,
    max_positions: usize,
}

impl Parameters<'_> {
    /// Positions that the model was first trained for. A field of the model goes before one of the parameters.
    fn original_positions(&self) -> Result<usize> {
        let name = "original_max_position_embeddings";
        let of_model = self.model.count_if_any(name, MAX_POSITIONS)?;
        let positions = of_model.map_or_else(|| self.own.count_if_any(name, MAX_POSITIONS), |n| Ok(Some(n)));
        Ok(positions?.unwrap_or(self.max_positions))
    }

    /// How much longer the context became.
    fn factor(&self) -> Result<f64> {
        let factor = self.own.positive_if_any("factor")?;
        Ok(factor.unwrap_or(self.max_positions as f64 / self.original_positions()? as f64))
    }

    /// Llama 3.1: long wavelengths are stretched, short ones stay, those between are blended.
    fn llama3(&self, inv_freq: Vec<f32>) -> Result<Vec<f32>> {
        let factor = self.own.positive("factor")? as f32;
        let low = self.own.positive("low_freq_factor")? as f32;
        let high = self.own.positive("high_freq_factor")? as f32;
        if high <= low {
            return Err(Error::invalid(self.own.path("high_freq_factor"), high, "more than low_freq_factor"));
        }
        let positions = self.original_positions()? as f32;
        let blend = |freq: f32| {
            let wavelength = std::f32::consts::TAU / freq;
            if wavelength > positions / low {
                return freq / factor;
            }
            if wavelength < positions / high {
                return freq;
            }
            let smooth = (positions / wavelength - low) / (high - low);
            (1.0 - smooth) * freq / factor + smooth * freq
        };
        Ok(inv_freq.into_iter().map(blend).collect())
    }

    /// YaRN, <https://arxiv.org/abs/2309.00071>: a ramp over the pairs between stretched and plain frequencies.
    fn yarn(&self, theta: f64, dim: usize, powers: &[f32]) -> Result<(Vec<f32>, Option<LongRope>, f32)> {
        let factor = self.factor()?;
        let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * libm::log(factor) + 1.0 };
        let mscales = (self.own.positive_if_any("mscale")?, self.own.positive_if_any("mscale_all_dim")?);
        let attention_factor = match (self.own.positive_if_any("attention_factor")?, mscales) {
            (Some(attention_factor), _) => attention_factor,
            (None, (Some(mscale), Some(all_dim))) => scale(mscale) / scale(all_dim),
            (None, _) => scale(1.0),
        };
        let positions = self.original_positions()? as f64;
        let pair_of_rotations =
            |n: f64| dim as f64 * libm::log(positions / (n * std::f64::consts::TAU)) / (2.0 * libm::log(theta));
        let low = pair_of_rotations(self.own.positive_if_any("beta_fast")?.unwrap_or(32.0));
        let high = pair_of_rotations(self.own.positive_if_any("beta_slow")?.unwrap_or(1.0));
        let is_truncated = !self.own.has("truncate") || self.own.bool("truncate")?;
        let (low, high) = if is_truncated { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min((dim - 1) as f64));
        let high = if low == high { high + 0.001 } else { high };
        let (low, width) = (low as f32, (high - low) as f32);
        let blend = |(pair_idx, power): (usize, &f32)| {
            let plain = 1.0 - ((pair_idx as f32 - low) / width).clamp(0.0, 1.0);
            1.0 / (factor as f32 * power) * (1.0 - plain) + 1.0 / power * plain
        };
        Ok((powers.iter().enumerate().map(blend).collect(), None, attention_factor as f32))
    }

    /// LongRoPE: a factor for each pair, one set for short and one for long sequences.
    fn longrope(&self, powers: &[f32]) -> Result<(Vec<f32>, Option<LongRope>, f32)> {
        let longer_than = self.original_positions()?;
        let factor = self.factor()?;
        let attention_factor = match self.own.positive_if_any("attention_factor")? {
            Some(attention_factor) => attention_factor,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + libm::log(factor) / libm::log(longer_than as f64)).sqrt(),
        };
        let divided = |name: &str| -> Result<Vec<f32>> {
            let factors = self.own.positives(name, powers.len())?;
            Ok(factors.iter().zip(powers).map(|(factor, power)| 1.0 / (factor * power)).collect())
        };
        let long = LongRope { longer_than, inv_freq: divided("long_factor")? };
        Ok((divided("short_factor")?, Some(long), attention_factor as f32))
    }
}
