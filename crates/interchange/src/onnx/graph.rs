//! A graph that grows node by node: goes in operators and the names of their inputs, come out the names of their
//! outputs. Knows operators' spelling, and no model. Next in the flow: decoder.rs.

use std::collections::HashSet;

use super::data::{Data, Initializer};
use super::proto::{self, attribute_type, data_type};

/// Operators of the standard that are used are those of this version; ONNX Runtime has them since 1.12.
pub(crate) const OPSET: i64 = 17;
/// The version of the file format that came with it.
pub(crate) const IR_VERSION: i64 = 8;
/// The domain of ONNX Runtime's own operators.
pub(crate) const MICROSOFT: &str = "com.microsoft";

/// An attribute's value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
}

/// A dimension of an input or output.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dim {
    Fixed(usize),
    Named(&'static str),
}

/// A graph. Values are known by name.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: Vec<proto::Node>,
    inputs: Vec<proto::ValueInfo>,
    outputs: Vec<proto::ValueInfo>,
    pub(crate) initializers: Vec<Initializer>,
    constants: HashSet<String>,
    /// What names of nodes begin with.
    scope: String,
}

impl Graph {
    /// From now on names of nodes begin so.
    pub(crate) fn enter(&mut self, scope: &str) {
        scope.clone_into(&mut self.scope);
    }

    pub(crate) fn input(&mut self, name: &str, elem_type: i32, dims: &[Dim]) {
        self.inputs.push(value_info(name, elem_type, dims));
    }

    pub(crate) fn output(&mut self, name: &str, elem_type: i32, dims: &[Dim]) {
        self.outputs.push(value_info(name, elem_type, dims));
    }

    /// A node without attributes and with one output, whose name comes back.
    pub(crate) fn op(&mut self, op: &str, inputs: &[&str]) -> String {
        self.op_with(op, inputs, &[])
    }

    /// The same with attributes.
    pub(crate) fn op_with(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        let name = format!("{}{op}.{}", self.scope, self.nodes.len());
        self.node("", op, inputs, &[&name], attributes);
        name
    }

    /// A node whose one output has that name.
    pub(crate) fn op_named(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)], output: &str) {
        self.node("", op, inputs, &[output], attributes);
    }

    /// A node of another domain.
    pub(crate) fn op_of(
        &mut self,
        domain: &str,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) -> String {
        let name = format!("{}{op}.{}", self.scope, self.nodes.len());
        self.node(domain, op, inputs, &[&name], attributes);
        name
    }

    /// Cuts the last dimension into parts of these sizes.
    pub(crate) fn split<const N: usize>(&mut self, input: &str, sizes: [usize; N]) -> [String; N] {
        let name = format!("{}Split.{}", self.scope, self.nodes.len());
        let parts: [String; N] = std::array::from_fn(|part_idx| format!("{name}.{part_idx}"));
        let sizes = self.ints(&sizes.map(|size| size as i64));
        let outputs: Vec<&str> = parts.iter().map(String::as_str).collect();
        self.node("", "Split", &[input, &sizes], &outputs, &[("axis", Attribute::Int(-1))]);
        parts
    }

    pub(crate) fn reshape(&mut self, input: &str, shape: &[i64]) -> String {
        let shape = self.ints(shape);
        self.op("Reshape", &[input, &shape])
    }

    pub(crate) fn transpose(&mut self, input: &str, order: &[i64]) -> String {
        self.op_with("Transpose", &[input], &[("perm", Attribute::Ints(order))])
    }

    pub(crate) fn concat(&mut self, inputs: &[&str], axis: i64) -> String {
        self.op_with("Concat", inputs, &[("axis", Attribute::Int(axis))])
    }

    pub(crate) fn cast(&mut self, input: &str, to: i32) -> String {
        self.op_with("Cast", &[input], &[("to", Attribute::Int(i64::from(to)))])
    }

    fn node(&mut self, domain: &str, op: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, Attribute)]) {
        self.nodes.push(proto::Node {
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: outputs.iter().map(|&name| name.to_owned()).collect(),
            name: format!("{}{op}.{}", self.scope, self.nodes.len()),
            op_type: op.to_owned(),
            attribute: attributes.iter().map(|(name, value)| attribute(name, *value)).collect(),
            domain: domain.to_owned(),
        });
    }

    /// A tensor with a name of its own.
    pub(crate) fn initializer(&mut self, initializer: Initializer) -> String {
        let name = initializer.name.clone();
        self.initializers.push(initializer);
        name
    }

    /// A constant list of integers.
    pub(crate) fn ints(&mut self, values: &[i64]) -> String {
        let name = format!("ints_{}", values.iter().map(i64::to_string).collect::<Vec<_>>().join("_"));
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, data_type::INT64, vec![values.len() as i64], bytes)
    }

    /// A constant integer.
    pub(crate) fn int(&mut self, value: i64) -> String {
        self.constant(format!("int_{value}"), data_type::INT64, Vec::new(), value.to_le_bytes().to_vec())
    }

    /// A constant integer of 32 bits.
    pub(crate) fn int32(&mut self, value: i32) -> String {
        self.constant(format!("int32_{value}"), data_type::INT32, Vec::new(), value.to_le_bytes().to_vec())
    }

    /// A constant float.
    pub(crate) fn float(&mut self, value: f32) -> String {
        self.constant(format!("float_{value:e}"), data_type::FLOAT, Vec::new(), value.to_le_bytes().to_vec())
    }

    /// Constant floats, under a name with a number.
    pub(crate) fn floats(&mut self, name: &str, values: &[f32]) -> String {
        let name = format!("{name}.{}", self.initializers.len());
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, data_type::FLOAT, vec![values.len() as i64], bytes)
    }

    /// Equal constants are one.
    fn constant(&mut self, name: String, data_type: i32, dims: Vec<i64>, bytes: Vec<u8>) -> String {
        if self.constants.insert(name.clone()) {
            self.initializers.push(Initializer { name: name.clone(), data_type, dims, data: Data::Bytes(bytes) });
        }
        name
    }

    /// Leaves out initializers that no node reads.
    pub(crate) fn prune(&mut self) {
        let used: HashSet<&String> = self.nodes.iter().flat_map(|node| &node.input).collect();
        self.initializers.retain(|initializer| used.contains(&initializer.name));
    }

    /// The graph as a message, with `tensors` in the place of its initializers.
    pub(crate) fn into_model(self, tensors: Vec<proto::Tensor>) -> proto::Model {
        let opset = |domain: &str, version| proto::OperatorSet { domain: domain.to_owned(), version };
        let mut opset_import = vec![opset("", OPSET)];
        if self.nodes.iter().any(|node| node.domain == MICROSOFT) {
            opset_import.push(opset(MICROSOFT, 1));
        }
        let graph = proto::Graph {
            node: self.nodes,
            name: "decoder".to_owned(),
            initializer: tensors,
            input: self.inputs,
            output: self.outputs,
        };
        proto::Model {
            ir_version: IR_VERSION,
            producer_name: "netweight".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(graph),
            opset_import,
        }
    }
}

fn attribute(name: &str, value: Attribute) -> proto::Attribute {
    let name = name.to_owned();
    match value {
        Attribute::Int(i) => proto::Attribute { name, i: Some(i), r#type: attribute_type::INT, ..Default::default() },
        Attribute::Ints(ints) => {
            proto::Attribute { name, ints: ints.to_vec(), r#type: attribute_type::INTS, ..Default::default() }
        }
    }
}

fn value_info(name: &str, elem_type: i32, dims: &[Dim]) -> proto::ValueInfo {
    let dimension = |dim: &Dim| match dim {
        Dim::Fixed(n) => proto::Dimension { dim_value: Some(*n as i64), dim_param: None },
        Dim::Named(name) => proto::Dimension { dim_value: None, dim_param: Some((*name).to_owned()) },
    };
    let shape = proto::Shape { dim: dims.iter().map(dimension).collect() };
    let tensor_type = proto::TensorType { elem_type, shape: Some(shape) };
    proto::ValueInfo { name: name.to_owned(), r#type: Some(proto::Type { tensor_type: Some(tensor_type) }) }
}
