//! A model's weights as nodes and initializers: goes in a tensor of the declaration, comes out the name of a product, of
//! looked-up rows, or of a vector. Next in the flow: data.rs, then write.rs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netweight_container::{Context, Error, Result};
use netweight_model::{Kind, Tensor, Transform};
use netweight_pack::Progress;

use super::data::{Data, Initializer};
use super::graph::{Attribute, Graph, MICROSOFT};
use super::matrix::{Digit, Integers};
use super::proto::data_type;
use crate::export::float_type;
use crate::source::Source;
use crate::transcode::Job;
use crate::types::Type;

/// What becomes of matrices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    /// The type of floats; `None`: each its own, and grids as they are.
    pub(crate) floats: Option<Type>,
    /// Whether matrices of layers are rounded to eight bits.
    pub(crate) rounds: bool,
    /// Whether only operators of the standard are used.
    pub(crate) standard: bool,
}

/// A matrix in the graph: names of initializers.
#[derive(Clone)]
enum Matrix {
    Floats { name: String, ty: Type },
    Integers(Arc<Integers>),
}

/// What was asked for, and how it is stored.
pub(crate) struct Weights<'a> {
    source: &'a Source,
    choice: Choice,
    progress: &'a dyn Progress,
    matrices: BTreeMap<String, Matrix>,
    /// Tensors of the checkpoint that were asked for.
    used: BTreeSet<String>,
    /// The last input that was multiplied with columns' steps, those, and the product.
    scaled: Vec<(String, Vec<f32>, String)>,
    /// Values of all tensors, of matrices that were rounded to integers, and of grids.
    pub(crate) n_values: u64,
    pub(crate) n_rounded: u64,
    pub(crate) n_of_grids: u64,
    /// Types of other matrices, with their values.
    pub(crate) floats: Vec<(Type, u64)>,
}

impl<'a> Weights<'a> {
    pub(crate) fn new(source: &'a Source, choice: Choice, progress: &'a dyn Progress) -> Weights<'a> {
        Weights {
            source,
            choice,
            progress,
            matrices: BTreeMap::new(),
            used: BTreeSet::new(),
            scaled: Vec::new(),
            n_values: 0,
            n_rounded: 0,
            n_of_grids: 0,
            floats: Vec::new(),
        }
    }

    /// Refuses a checkpoint that has tensors which nobody asked for.
    ///
    /// # Errors
    /// `Unsupported` with the name of one.
    pub(crate) fn check_all_used(&self) -> Result<()> {
        // Frequencies that old versions of transformers stored; they follow from config.json.
        let is_left_out = |name: &str| name.ends_with("rotary_emb.inv_freq");
        match self.source.names().find(|name| !self.used.contains(*name) && !is_left_out(name)) {
            Some(name) => Err(Error::unsupported("a tensor that the architecture does not have").in_tensor(name)),
            None => Ok(()),
        }
    }

    /// `W x + b`: (tokens, cols) to (tokens, rows).
    ///
    /// # Errors
    /// `Corrupt` where the checkpoint has no such tensor; as [`Source::read`].
    pub(crate) fn linear(&mut self, graph: &mut Graph, x: &str, tensor: &Tensor) -> Result<String> {
        let bias = tensor.bias.as_ref().map(|bias| self.vector(graph, bias)).transpose()?;
        match self.matrix(graph, tensor)? {
            Matrix::Floats { name, ty } => {
                let weight = if ty == Type::F32 { name } else { graph.cast(&name, data_type::FLOAT) };
                Ok(gemm(graph, x, &weight, bias.as_deref()))
            }
            Matrix::Integers(matrix) => {
                let x = self.scaled(graph, x, &matrix);
                if self.choice.standard {
                    let inputs = [matrix.name("indices"), matrix.name("row_steps")];
                    let inputs = inputs.each_ref().map(String::as_str);
                    let weight = graph.op_with("DequantizeLinear", &inputs, &[("axis", Attribute::Int(0))]);
                    return Ok(gemm(graph, &x, &weight, bias.as_deref()));
                }
                let product = by_digits(graph, &x, &matrix);
                Ok(match bias {
                    Some(bias) => graph.op("Add", &[&product, &bias]),
                    None => product,
                })
            }
        }
    }

    /// Rows of a table: (tokens,) to (tokens, cols).
    ///
    /// # Errors
    /// As [`Weights::linear`].
    pub(crate) fn embedding(&mut self, graph: &mut Graph, ids: &str, tensor: &Tensor) -> Result<String> {
        match self.matrix(graph, tensor)? {
            Matrix::Floats { name, ty } => {
                let rows = graph.op("Gather", &[&name, ids]);
                Ok(if ty == Type::F32 { rows } else { graph.cast(&rows, data_type::FLOAT) })
            }
            Matrix::Integers(matrix) => {
                let indices = match self.choice.standard {
                    true => graph.op("Gather", &[&matrix.name("indices"), ids]),
                    false => from_digits(graph, ids, &matrix),
                };
                let indices = graph.cast(&indices, data_type::FLOAT);
                let by_row = graph.op("Gather", &[&matrix.name("row_steps"), ids]);
                let axes = graph.ints(&[1]);
                let by_row = graph.op("Unsqueeze", &[&by_row, &axes]);
                let rows = graph.op("Mul", &[&indices, &by_row]);
                Ok(match &matrix.col_steps {
                    Some(_) => graph.op("Mul", &[&rows, &matrix.name("col_steps")]),
                    None => rows,
                })
            }
        }
    }

    /// A vector of f32, (rows,)
    ///
    /// # Errors
    /// As [`Weights::linear`].
    pub(crate) fn vector(&mut self, graph: &mut Graph, tensor: &Tensor) -> Result<String> {
        let (name, from) = self.find(tensor)?;
        let bytes = self.source.read_whole(&name)?;
        let mut values = vec![0f32; tensor.rows];
        let decode = from.decode().ok_or_else(|| Error::unsupported("this type is not read"))?;
        decode(&bytes, &mut values);
        if tensor.transform == Transform::AddOne {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        self.n_values += values.len() as u64;
        Ok(graph.initializer(floats(name, &values)))
    }

    /// The input of a matrix, multiplied with its columns' steps. Matrices that share both share the product.
    fn scaled(&mut self, graph: &mut Graph, x: &str, matrix: &Integers) -> String {
        let Some(steps) = &matrix.col_steps else { return x.to_owned() };
        self.scaled.retain(|(input, ..)| input == x);
        if let Some((.., product)) = self.scaled.iter().find(|(_, other, _)| other == steps) {
            return product.clone();
        }
        let product = graph.op("Mul", &[x, &matrix.name("col_steps")]);
        self.scaled.push((x.to_owned(), steps.clone(), product.clone()));
        product
    }

    /// Which tensor of the checkpoint it is, and its type.
    fn find(&mut self, tensor: &Tensor) -> Result<(String, Type)> {
        let is_there = |name: &&String| self.source.tensor(name).is_some();
        let name = tensor.names.iter().find(is_there).map_or(tensor.name(), String::as_str).to_owned();
        let entry = self.source.needed(&name)?;
        let shape: Vec<u64> = tensor.shape().iter().map(|&n| n as u64).collect();
        if entry.shape != shape {
            let what = format!("its shape is {:?} where config.json gives {shape:?}", entry.shape);
            return Err(Error::corrupt(what).in_tensor(&name));
        }
        self.used.insert(name.clone());
        Ok((name.clone(), float_type(self.source, &name)?))
    }

    /// A matrix's initializers, made where they are not there yet.
    fn matrix(&mut self, graph: &mut Graph, tensor: &Tensor) -> Result<Matrix> {
        let (name, from) = self.find(tensor)?;
        if let Some(matrix) = self.matrices.get(&name) {
            return Ok(matrix.clone());
        }
        let (rows, cols) = (tensor.rows, tensor.cols);
        let n_values = (rows * cols) as u64;
        self.n_values += n_values;
        let is_inside = tensor.kind == Kind::Linear && name.contains(".layers.");
        let own = self.choice.floats.is_none() && !self.choice.rounds;
        let grid = if own { Integers::grid(self.source, &name, self.progress).in_tensor(&name)? } else { None };
        let integers = match grid {
            Some(grid) => {
                self.n_of_grids += n_values;
                Some(grid)
            }
            None if self.choice.rounds && is_inside => {
                self.n_rounded += n_values;
                Some(Integers::rounded(self.source, (&name, from), (rows, cols), self.progress)?)
            }
            None => None,
        };
        let matrix = match integers {
            Some(integers) => {
                let integers = Arc::new(integers);
                put_integers(graph, &integers, self.choice.standard);
                Matrix::Integers(integers)
            }
            None => {
                let ty = self.choice.floats.unwrap_or(from);
                self.floats.push((ty, n_values));
                let job = Job { from, to: ty, n_values, heads: None };
                let data = Data::Floats { tensor: name.clone(), job };
                let dims = vec![rows as i64, cols as i64];
                graph.initializer(Initializer { name: name.clone(), data_type: number(ty), dims, data });
                Matrix::Floats { name: name.clone(), ty }
            }
        };
        self.matrices.insert(name, matrix.clone());
        Ok(matrix)
    }
}

impl Integers {
    /// The name of one of its initializers.
    fn name(&self, part: &str) -> String {
        format!("{}_{part}", self.tensor)
    }

    fn digit_name(&self, digit: Digit) -> String {
        self.name(match digit {
            Digit::Only => "digits",
            Digit::High => "digits_high",
            Digit::Low => "digits_low",
        })
    }
}

fn number(ty: Type) -> i32 {
    match ty {
        ty if ty == Type::F16 => data_type::FLOAT16,
        ty if ty == Type::BF16 => data_type::BFLOAT16,
        _ => data_type::FLOAT,
    }
}

fn floats(name: String, values: &[f32]) -> Initializer {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Initializer { name, data_type: data_type::FLOAT, dims: vec![values.len() as i64], data: Data::Bytes(bytes) }
}

/// `x W^T + b`
fn gemm(graph: &mut Graph, x: &str, weight: &str, bias: Option<&str>) -> String {
    let inputs: Vec<&str> = [x, weight].into_iter().chain(bias).collect();
    graph.op_with("Gemm", &inputs, &[("transB", Attribute::Int(1))])
}

/// The initializers of a matrix of integers; those that no node reads are left out later.
fn put_integers(graph: &mut Graph, matrix: &Arc<Integers>, standard: bool) {
    let (rows, cols, n_blocks) = (matrix.rows as i64, matrix.cols as i64, matrix.n_blocks() as i64);
    let mut put = |name: String, data_type: i32, dims: &[i64], data: Data| {
        graph.initializer(Initializer { name, data_type, dims: dims.to_vec(), data });
    };
    if standard {
        put(matrix.name("indices"), data_type::INT8, &[rows, cols], Data::Indices(matrix.clone()));
    } else {
        let block_bytes = matrix.block_cols() as i64 / 2;
        for &digit in matrix.digits() {
            let name = matrix.digit_name(digit);
            let scales = Data::Scales(matrix.clone(), digit);
            put(format!("{name}_scales"), data_type::FLOAT, &[rows * n_blocks], scales);
            if digit == Digit::Low {
                let n_bytes = (matrix.rows * matrix.n_blocks().div_ceil(2)) as i64; // Two blocks to a byte.
                put(format!("{name}_zeros"), data_type::UINT8, &[n_bytes], Data::Zeros(n_bytes as u64));
            }
            put(name, data_type::UINT8, &[rows, n_blocks, block_bytes], Data::Digits(matrix.clone(), digit));
        }
    }
    graph.initializer(floats(matrix.name("row_steps"), &matrix.row_steps));
    if let Some(steps) = &matrix.col_steps {
        graph.initializer(floats(matrix.name("col_steps"), steps));
    }
}

/// The products of all digits, added.
fn by_digits(graph: &mut Graph, x: &str, matrix: &Integers) -> String {
    let mut products = matrix.digits().iter().map(|&digit| {
        let name = matrix.digit_name(digit);
        let (scales, zeros) = (format!("{name}_scales"), format!("{name}_zeros"));
        let counts_from_zero = (digit == Digit::Low).then_some(zeros.as_str());
        let inputs: Vec<&str> = [x, &name, &scales].into_iter().chain(counts_from_zero).collect();
        graph.op_of(MICROSOFT, "MatMulNBits", &inputs, &matrix.attributes())
    });
    let (first, second) = (products.next().unwrap_or_default(), products.next());
    drop(products);
    match second {
        Some(second) => graph.op("Add", &[&first, &second]),
        None => first,
    }
}

/// Rows of indices out of their digits: (tokens,) to (tokens, cols), integers of 32 bits.
fn from_digits(graph: &mut Graph, ids: &str, matrix: &Integers) -> String {
    let sixteen = graph.int32(16);
    let mut indices: Option<String> = None;
    for &digit in matrix.digits() {
        let rows = graph.op("Gather", &[&matrix.digit_name(digit), ids]);
        let bytes = graph.cast(&rows, data_type::INT32);
        let bytes = graph.reshape(&bytes, &[-1, matrix.row_bytes() as i64, 1]);
        let (even, odd) = (graph.op("Mod", &[&bytes, &sixteen]), graph.op("Div", &[&bytes, &sixteen]));
        let pairs = graph.concat(&[&even, &odd], 2);
        let digits = graph.reshape(&pairs, &[-1, 2 * matrix.row_bytes() as i64]);
        indices = Some(match indices {
            None => digits,
            Some(high) => {
                let high = graph.op("Mul", &[&high, &sixteen]);
                graph.op("Add", &[&high, &digits])
            }
        });
    }
    let zero_at = graph.int32(if matrix.is_narrow { 8 } else { 128 });
    let indices = graph.op("Sub", &[&indices.unwrap_or_default(), &zero_at]);
    if 2 * matrix.row_bytes() == matrix.cols {
        return indices;
    }
    let [start, end, axis] = [0, matrix.cols as i64, 1].map(|value| graph.ints(&[value]));
    graph.op("Slice", &[&indices, &start, &end, &axis])
}
