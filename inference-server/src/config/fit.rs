//! Whether a configuration agrees with the model's graph, and the tensors that clients see when it does.

use super::{ConfigError, ModelConfig};
use crate::{
    model::{Signature, TensorSpec},
    tensor::DataType,
    wire::inference::{self, ModelTensorReshape, model_input::Format},
};

/// How the tensors that clients see become the graph's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// What clients see.
    pub signature: Signature,
    /// For each input the graph's shape without the batch, where it differs from what clients see.
    pub inputs: Vec<Option<Reshape>>,
    /// For each output that clients see: its place in the graph, and the shape that clients see where it differs.
    pub outputs: Vec<(usize, Option<Reshape>)>,
}

/// A shape that takes its open dimensions from the shape before it, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reshape {
    from: Vec<Option<usize>>,
    to: Vec<Option<usize>>,
}

impl Reshape {
    /// The new dimensions of a tensor with these, both without the batch.
    pub fn apply(&self, sizes: &[usize]) -> Vec<usize> {
        let mut open = sizes.iter().zip(&self.from).filter(|(_, dim)| dim.is_none()).map(|(size, _)| *size);
        self.to.iter().map(|dim| dim.unwrap_or_else(|| open.next().unwrap_or(1))).collect()
    }
}

impl Fit {
    /// Compares a configuration with the graph. Where it says nothing, the graph holds.
    ///
    /// # Errors
    /// Names the first field that contradicts the graph.
    pub fn new(config: &ModelConfig, graph: &Signature) -> Result<Self, ConfigError> {
        let is_batched = graph.is_batched();
        if config.max_batch_size > 0 && !is_batched {
            let problem = "must be 0: the graph's inputs and outputs do not all have an open first dimension";
            return Err(ConfigError::invalid("max_batch_size", problem));
        }
        let mut inputs: Vec<(TensorSpec, Option<Reshape>)> =
            graph.inputs.iter().map(|spec| (spec.clone(), None)).collect();
        if !config.input.is_empty() && config.input.len() != graph.inputs.len() {
            let problem =
                format!("must name all {} inputs of the graph, not {}", graph.inputs.len(), config.input.len());
            return Err(ConfigError::invalid("input", problem));
        }
        for (index, wanted) in config.input.iter().enumerate() {
            let field = format!("input[{index}]");
            let place = place(&field, &wanted.name, &graph.inputs)?;
            let tensor = Tensor {
                field: &field,
                dims: &wanted.dims,
                data_type: wanted.data_type,
                reshape: wanted.reshape.as_ref(),
            };
            inputs[place] = tensor.fit(&graph.inputs[place], is_batched, config.max_batch_size > 0)?;
            check_format(&field, wanted.format(), inputs[place].0.dims.len() - usize::from(is_batched))?;
        }
        let mut outputs: Vec<(usize, TensorSpec, Option<Reshape>)> = Vec::new();
        for (index, wanted) in config.output.iter().enumerate() {
            let field = format!("output[{index}]");
            let place = place(&field, &wanted.name, &graph.outputs)?;
            let tensor = Tensor {
                field: &field,
                dims: &wanted.dims,
                data_type: wanted.data_type,
                reshape: wanted.reshape.as_ref(),
            };
            let (spec, reshape) = tensor.fit(&graph.outputs[place], is_batched, config.max_batch_size > 0)?;
            // An output goes the other way: from the graph's shape to the one that clients see.
            outputs.push((place, spec, reshape.map(|Reshape { from, to }| Reshape { from: to, to: from })));
        }
        if outputs.is_empty() {
            outputs = graph.outputs.iter().enumerate().map(|(place, spec)| (place, spec.clone(), None)).collect();
        }
        let (input_specs, input_shapes) = inputs.into_iter().unzip();
        Ok(Self {
            signature: Signature {
                inputs: input_specs,
                outputs: outputs.iter().map(|(_, spec, _)| spec.clone()).collect(),
                platform: graph.platform,
            },
            inputs: input_shapes,
            outputs: outputs.into_iter().map(|(place, _, reshape)| (place, reshape)).collect(),
        })
    }

    /// Whether tensors pass as they are.
    pub fn is_plain(&self, graph: &Signature) -> bool {
        self.signature == *graph
            && self.inputs.iter().all(Option::is_none)
            && self.outputs.iter().all(|(_, to)| to.is_none())
    }
}

fn place(field: &str, name: &str, graph: &[TensorSpec]) -> Result<usize, ConfigError> {
    graph.iter().position(|spec| spec.name == name).ok_or_else(|| {
        let names: Vec<&str> = graph.iter().map(|spec| spec.name.as_str()).collect();
        ConfigError::invalid(
            format!("{field}.name"),
            format!("is '{name}', and the graph has '{}'", names.join("', '")),
        )
    })
}

fn check_format(field: &str, format: Format, dimensions: usize) -> Result<(), ConfigError> {
    if format == Format::None || dimensions == 3 {
        return Ok(());
    }
    let problem = format!("is {} and needs 3 dims, not {dimensions}", format.as_str_name());
    Err(ConfigError::invalid(format!("{field}.format"), problem))
}

/// An input or output of the configuration.
struct Tensor<'a> {
    field: &'a str,
    dims: &'a [i64],
    data_type: i32,
    reshape: Option<&'a ModelTensorReshape>,
}

impl Tensor<'_> {
    /// What clients see of a tensor of the graph, and how it becomes the graph's where that differs.
    fn fit(
        &self,
        graph: &TensorSpec,
        is_batched: bool,
        has_batch_size: bool,
    ) -> Result<(TensorSpec, Option<Reshape>), ConfigError> {
        let wanted = data_type(self.data_type);
        if self.data_type != 0 && wanted != Some(graph.data_type) {
            let name = inference::DataType::try_from(self.data_type).map_or("unknown", |known| known.as_str_name());
            let problem = format!("is {name}, and the graph has {}", config_type(graph.data_type).as_str_name());
            return Err(ConfigError::invalid(format!("{}.data_type", self.field), problem));
        }
        let rows = usize::from(is_batched);
        let graph_dims = &graph.dims[rows.min(graph.dims.len())..];
        if self.dims.is_empty() && self.reshape.is_none() {
            return Ok((graph.clone(), None));
        }
        if is_batched && !has_batch_size && self.reshape.is_none() && self.dims.len() == graph.dims.len() {
            let problem = format!(
                "has all {} dimensions of the graph, the batch among them: say max_batch_size, and leave the first one out",
                graph.dims.len()
            );
            return Err(ConfigError::invalid(format!("{}.dims", self.field), problem));
        }
        let dims = sizes(self.dims, &format!("{}.dims", self.field))?;
        let Some(reshape) = self.reshape else {
            let narrowed = narrow(&dims, graph_dims, &format!("{}.dims", self.field))?;
            return Ok((TensorSpec { dims: with_batch(graph, rows, narrowed), ..graph.clone() }, None));
        };
        let field = format!("{}.reshape.shape", self.field);
        let to = narrow(&sizes(&reshape.shape, &field)?, graph_dims, &field)?;
        let product =
            |dims: &[Option<usize>]| dims.iter().flatten().try_fold(1_usize, |all, size| all.checked_mul(*size));
        let open = |dims: &[Option<usize>]| dims.iter().filter(|dim| dim.is_none()).count();
        if product(&dims) != product(&to) || open(&dims) != open(&to) {
            let problem =
                format!("is {:?}, which has another number of elements than dims {:?}", reshape.shape, self.dims);
            return Err(ConfigError::invalid(field, problem));
        }
        let spec = TensorSpec { dims: with_batch(graph, rows, dims.clone()), ..graph.clone() };
        Ok((spec, (dims != to).then_some(Reshape { from: dims, to })))
    }
}

fn with_batch(graph: &TensorSpec, rows: usize, dims: Vec<Option<usize>>) -> Vec<Option<usize>> {
    graph.dims.iter().take(rows).copied().chain(dims).collect()
}

fn sizes(dims: &[i64], field: &str) -> Result<Vec<Option<usize>>, ConfigError> {
    dims.iter()
        .map(|dim| match dim {
            -1 => Ok(None),
            _ => usize::try_from(*dim).ok().filter(|size| *size > 0).map(Some).ok_or_else(|| {
                ConfigError::invalid(field, format!("must be sizes from 1 on, or -1 for an open one, not {dim}"))
            }),
        })
        .collect()
}

/// What both allow: a size goes before an open dimension.
fn narrow(wanted: &[Option<usize>], graph: &[Option<usize>], field: &str) -> Result<Vec<Option<usize>>, ConfigError> {
    let contradicts =
        |(wanted, graph): (&Option<usize>, &Option<usize>)| wanted.is_some() && graph.is_some() && wanted != graph;
    if wanted.len() != graph.len() || wanted.iter().zip(graph).any(contradicts) {
        let problem = format!("is {}, and the graph has {}", shape(wanted), shape(graph));
        return Err(ConfigError::invalid(field, problem));
    }
    Ok(wanted.iter().zip(graph).map(|(wanted, graph)| wanted.or(*graph)).collect())
}

fn shape(dims: &[Option<usize>]) -> String {
    let sizes: Vec<String> = dims.iter().map(|dim| dim.map_or("-1".to_owned(), |size| size.to_string())).collect();
    format!("[{}]", sizes.join(","))
}

/// The configuration's name of an element type.
pub fn config_type(data_type: DataType) -> inference::DataType {
    match data_type {
        DataType::Bool => inference::DataType::TypeBool,
        DataType::Uint8 => inference::DataType::TypeUint8,
        DataType::Uint16 => inference::DataType::TypeUint16,
        DataType::Uint32 => inference::DataType::TypeUint32,
        DataType::Uint64 => inference::DataType::TypeUint64,
        DataType::Int8 => inference::DataType::TypeInt8,
        DataType::Int16 => inference::DataType::TypeInt16,
        DataType::Int32 => inference::DataType::TypeInt32,
        DataType::Int64 => inference::DataType::TypeInt64,
        DataType::Fp16 => inference::DataType::TypeFp16,
        DataType::Fp32 => inference::DataType::TypeFp32,
        DataType::Fp64 => inference::DataType::TypeFp64,
        DataType::Bytes => inference::DataType::TypeString,
    }
}

/// The element type that the configuration's number means.
pub fn data_type(number: i32) -> Option<DataType> {
    let all = [
        DataType::Bool,
        DataType::Uint8,
        DataType::Uint16,
        DataType::Uint32,
        DataType::Uint64,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::Fp16,
        DataType::Fp32,
        DataType::Fp64,
        DataType::Bytes,
    ];
    all.into_iter().find(|known| config_type(*known) as i32 == number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::text;

    fn spec(name: &str, dims: &[Option<usize>]) -> TensorSpec {
        TensorSpec { name: name.to_owned(), data_type: DataType::Fp32, dims: dims.to_vec() }
    }

    fn graph() -> Signature {
        Signature {
            inputs: vec![spec("x", &[None, Some(3), None, None]), spec("s", &[None])],
            outputs: vec![spec("y", &[None, Some(4)]), spec("z", &[None, None])],
            platform: "test",
        }
    }

    fn fit(text: &str) -> Result<Fit, String> {
        Fit::new(&text::parse(text).unwrap(), &graph()).map_err(|error| error.to_string())
    }

    #[test]
    fn silence_is_the_graph() {
        let fit = fit("").unwrap();
        assert!(fit.is_plain(&graph()));
    }

    #[test]
    fn sizes_narrow_the_graph_and_outputs_can_be_left_out() {
        let fit = fit(r#"max_batch_size: 4
            input [ { name: "s" dims: [ 1 ] reshape { shape: [ ] } }, { name: "x" data_type: TYPE_FP32 dims: [ 3, 224, -1 ] } ]
            output [ { name: "z" dims: [ 2, -1 ] reshape { shape: [ -1 ] } } ]"#);
        // [2,-1] has twice the elements of [-1], whatever -1 is.
        assert!(fit.unwrap_err().contains("output[0].reshape.shape is [-1], which has another number of elements"));
        let fit = self::fit(
            r#"max_batch_size: 4
            input [ { name: "s" dims: [ 1 ] reshape { shape: [ ] } }, { name: "x" data_type: TYPE_FP32 dims: [ 3, 224, -1 ] } ]
            output [ { name: "z" dims: [ -1, 1 ] reshape { shape: [ -1 ] } } ]"#,
        )
        .unwrap();
        assert_eq!(fit.signature.inputs[0].dims, [None, Some(3), Some(224), None]);
        assert_eq!(fit.signature.inputs[1].dims, [None, Some(1)]);
        assert_eq!(fit.inputs[1].as_ref().unwrap().apply(&[1]), Vec::<usize>::new());
        assert_eq!(fit.signature.outputs, [spec("z", &[None, None, Some(1)])]);
        let (place, reshape) = &fit.outputs[0];
        assert_eq!((*place, reshape.as_ref().unwrap().apply(&[7])), (1, vec![7, 1]));
        assert!(!fit.is_plain(&graph()));
    }

    #[test]
    fn contradictions_are_named() {
        let x = r#"{ name: "x" dims: [ 3, -1, -1 ] }"#;
        let s = r#"{ name: "s" dims: [ 1 ] reshape { shape: [ ] } }"#;
        for (text, part) in [
            (format!("max_batch_size: 4 input [ {x} ]"), "input must name all 2 inputs of the graph, not 1"),
            (
                format!(r#"max_batch_size: 4 input [ {x}, {{ name: "q" }} ]"#),
                "input[1].name is 'q', and the graph has 'x', 's'",
            ),
            (
                format!(r#"max_batch_size: 4 input [ {s}, {{ name: "x" data_type: TYPE_INT32 }} ]"#),
                "input[1].data_type is TYPE_INT32, and the graph has TYPE_FP32",
            ),
            (
                format!(r#"max_batch_size: 4 input [ {s}, {{ name: "x" dims: [ 1, 8, 8 ] }} ]"#),
                "input[1].dims is [1,8,8], and the graph has [3,-1,-1]",
            ),
            (
                format!(r#"max_batch_size: 4 input [ {s}, {{ name: "x" dims: [ 3, 8 ] }} ]"#),
                "input[1].dims is [3,8], and the graph has [3,-1,-1]",
            ),
            (
                format!(r#"max_batch_size: 4 input [ {s}, {{ name: "x" dims: [ 3, 0, 8 ] }} ]"#),
                "must be sizes from 1 on",
            ),
            (
                format!(r#"input [ {s}, {{ name: "x" dims: [ -1, 3, 8, 8 ] }} ]"#),
                "input[1].dims has all 4 dimensions of the graph, the batch among them",
            ),
            (
                format!(r#"max_batch_size: 4 input [ {x}, {{ name: "s" dims: [ 2 ] reshape {{ shape: [ ] }} }} ]"#),
                "input[1].reshape.shape is [], which has another number of elements than dims [2]",
            ),
            (
                format!(
                    r#"max_batch_size: 4 input [ {x}, {{ name: "s" dims: [ 1 ] reshape {{ shape: [ ] }} format: FORMAT_NCHW }} ]"#
                ),
                "input[1].format is FORMAT_NCHW and needs 3 dims, not 1",
            ),
            (r#"output { name: "q" }"#.to_owned(), "output[0].name is 'q', and the graph has 'y', 'z'"),
        ] {
            let error = fit(&text).unwrap_err();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
        let fixed = Signature { inputs: vec![spec("x", &[Some(1)])], outputs: vec![], platform: "test" };
        let error = Fit::new(&text::parse("max_batch_size: 2").unwrap(), &fixed).unwrap_err();
        assert!(error.to_string().contains("max_batch_size must be 0"));
    }
}
