//! Tensors that differ in their layer only, as one row: `model.layers.*.mlp.up_proj.weight`, 32 times.

use netweight_pack::TensorReport;

/// Tensors of one name pattern, dtype and shape.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// The name; numbers between dots are `*` where there are several tensors.
    pub name: String,
    /// The tensors, never none.
    pub tensors: Vec<&'a TensorReport>,
}

/// Groups tensors, in the order of the first of each group.
pub fn groups(tensors: &[TensorReport]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for tensor in tensors {
        let name = pattern(&tensor.name);
        let key = (name.clone(), tensor.dtype.as_str(), tensor.shape.as_slice(), tensor.same_as.is_some());
        let place = *places.entry(key).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.tensors.push(tensor),
            None => groups.push(Group { name, tensors: vec![tensor] }),
        }
    }
    for group in groups.iter_mut().filter(|group| group.tensors.len() == 1) {
        group.name.clone_from(&group.tensors[0].name);
    }
    groups
}

/// Every tensor for itself.
pub fn singles(tensors: &[TensorReport]) -> Vec<Group<'_>> {
    tensors.iter().map(|tensor| Group { name: tensor.name.clone(), tensors: vec![tensor] }).collect()
}

fn pattern(name: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    name.split('.').map(|part| if is_number(part) { "*" } else { part }).collect::<Vec<&str>>().join(".")
}

impl Group<'_> {
    /// Sum over the tensors; `None` where any has none.
    pub fn sum(&self, field: impl Fn(&TensorReport) -> Option<f64>) -> Option<f64> {
        self.tensors.iter().map(|tensor| field(tensor)).sum()
    }

    /// Mean of a number of bits per element, over the elements.
    pub fn mean_bits(&self, field: impl Fn(&TensorReport) -> Option<f64>) -> Option<f64> {
        let n_elements: u64 = self.tensors.iter().map(|tensor| tensor.n_elements).sum();
        let bits = self.sum(|tensor| field(tensor).map(|bits| bits * tensor.n_elements as f64))?;
        (n_elements > 0).then(|| bits / n_elements as f64)
    }

    /// How the tensors are coded: the commonest way, and whether there are others.
    pub fn coder(&self) -> String {
        let first = self.tensors[0];
        if let Some(same_as) = &first.same_as {
            return format!("as {same_as}");
        }
        let base = |tensor: &TensorReport| tensor.coder.split(" (").next().unwrap_or_default().to_owned();
        let mut counts = std::collections::BTreeMap::new();
        for tensor in &self.tensors {
            *counts.entry(base(tensor)).or_insert(0) += 1;
        }
        let commonest = counts.iter().max_by_key(|row| row.1).map(|row| row.0.clone()).unwrap_or_default();
        let uniform = self.tensors.iter().all(|tensor| tensor.coder == commonest);
        if uniform { commonest } else { format!("{commonest}, mostly") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let check = |name: &str, expected: &str| assert_eq!(pattern(name), expected);
        check("model.layers.12.mlp.up_proj.weight", "model.layers.*.mlp.up_proj.weight");
        check("layers.0.experts.7.w1", "layers.*.experts.*.w1");
        check("h.0", "h.*");
        check("lm_head.weight", "lm_head.weight");
        check("w2.v3", "w2.v3");
        check("", "");
    }
}
