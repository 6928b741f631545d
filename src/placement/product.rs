//! A GPU product's name as GPU feature discovery writes it, with its sharing suffix taken apart.

/// A product and how the node divides it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Product {
    /// The name without suffixes, for example NVIDIA-GeForce-RTX-4080.
    pub name: String,
    /// What the suffix said.
    pub sharing: Sharing,
}

/// How a node's GPU is shared: a fact of the node, not a wish.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Sharing {
    /// A whole GPU.
    Exclusive,
    /// A partition with memory and compute of its own (Multi-Instance GPU).
    Mig,
    /// Time-slicing or MPS: several pods on one GPU (`-SHARED`).
    Shared,
}

impl Sharing {
    /// The word in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exclusive => "Exclusive",
            Self::Mig => "Mig",
            Self::Shared => "TimeSlicingOrMps",
        }
    }
}

impl Product {
    /// Takes the label's value apart.
    pub fn parse(label: &str) -> Self {
        if let Some(name) = label.strip_suffix("-SHARED") {
            return Self { name: without_mig(name).to_owned(), sharing: Sharing::Shared };
        }
        let name = without_mig(label);
        Self { name: name.to_owned(), sharing: if name == label { Sharing::Exclusive } else { Sharing::Mig } }
    }

    /// The name for people: without the maker and the series.
    pub fn short(name: &str) -> &str {
        ["NVIDIA-GeForce-", "NVIDIA-", "Tesla-"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
    }
}

fn without_mig(label: &str) -> &str {
    label.find("-MIG-").map_or(label, |at| &label[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_taken_apart() {
        let cases = [
            ("NVIDIA-GeForce-RTX-4080", "NVIDIA-GeForce-RTX-4080", Sharing::Exclusive, "RTX-4080"),
            ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", "NVIDIA-A100-SXM4-80GB", Sharing::Mig, "A100-SXM4-80GB"),
            ("Tesla-T4-SHARED", "Tesla-T4", Sharing::Shared, "T4"),
            ("NVIDIA-A100-MIG-1g.5gb-SHARED", "NVIDIA-A100", Sharing::Shared, "A100"),
        ];
        for (label, name, sharing, short) in cases {
            let product = Product::parse(label);
            assert_eq!((product.name.as_str(), product.sharing), (name, sharing), "{label}");
            assert_eq!(Product::short(&product.name), short);
        }
    }
}
