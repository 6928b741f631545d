//! The bare side: ONNX Runtime and nothing else, with an image's decoding before it where images are measured.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use flotilla_server::{
    device::{
        BatchInput, Device, Values, aligned,
        onnx::{Onnx, library::Library},
        probe,
    },
    image::{
        Preprocessor, Scratch,
        options::{Preprocessing, Preset},
    },
    model::Signature,
    tensor::Data,
};
use ort::{
    memory::Allocator,
    session::{IoBinding, Session, builder::GraphOptimizationLevel},
    value::Tensor,
};

use super::{Outcome, Slot};

/// A session of the server's own options, with its input and output bound to memory that stays.
pub(super) struct Bare {
    session: Session,
    binding: IoBinding,
    images: Option<Images>,
    batch: usize,
}

/// What makes one image the model's input.
struct Images {
    file: Vec<u8>,
    preprocessor: Preprocessor,
    scratch: Scratch,
    values: Vec<f32>,
}

impl Bare {
    /// `image`: a file that is decoded once for each row.
    pub(super) fn open(
        library: &Library,
        model: &Path,
        signature: &Signature,
        threads: usize,
        batch: usize,
        image: Option<&Path>,
    ) -> Outcome<Self> {
        let session = Session::builder(library.environment())?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            .with_intra_op_spinning(false)?
            .commit_from_file(model)?;
        let shape = |dims: &[Option<usize>]| -> Vec<usize> {
            std::iter::once(batch).chain(dims.iter().skip(1).map(|dim| dim.unwrap_or(224))).collect()
        };
        let mut binding = session.create_binding()?;
        for spec in &signature.inputs {
            let mut input = Tensor::<f32>::new(&Allocator::default(), shape(&spec.dims))?;
            for (index, value) in input.extract_tensor_mut().1.iter_mut().enumerate() {
                *value = f32::from(u8::try_from(index % 251)?) / 251.0;
            }
            binding.bind_input(spec.name.as_str(), &input)?;
        }
        for spec in &signature.outputs {
            binding.bind_output(spec.name.as_str(), Tensor::<f32>::new(&Allocator::default(), shape(&spec.dims))?)?;
        }
        let images = image.map(|file| Images::open(file, signature)).transpose()?;
        Ok(Self { session, binding, images, batch })
    }

    #[expect(clippy::cast_precision_loss, reason = "counts")]
    pub(super) fn slot(&mut self, slot: Duration) -> Outcome<Slot> {
        let (start, cpu, mut runs) = (Instant::now(), cpu_seconds("self")?, 0_usize);
        while start.elapsed() < slot {
            for _ in 0..self.batch {
                self.images.as_mut().map_or(Ok(()), Images::decode)?;
            }
            self.session.run_binding(&self.binding)?;
            runs += 1;
        }
        let wall = start.elapsed().as_secs_f64();
        Ok(Slot { images: (runs * self.batch) as f64, cpu: cpu_seconds("self")? - cpu, wall, busy: wall })
    }
}

impl Images {
    fn open(file: &Path, signature: &Signature) -> Outcome<Self> {
        let preprocessor = Preprocessor::new(Preprocessing::from(Preset::Clip), signature)
            .map_err(|failure| failure.message)?
            .ok_or("the model takes no images")?;
        let values = vec![0.0; preprocessor.values()];
        Ok(Self { file: fs::read(file)?, preprocessor, scratch: Scratch::default(), values })
    }

    fn decode(&mut self) -> Outcome {
        Ok(self.preprocessor.decode_into(&self.file, &mut self.scratch, &mut self.values)?)
    }
}

/// One body for each row of a batch: the first input's bytes.
pub(super) fn tensors(device: &Onnx, batch: usize) -> Outcome<Vec<bytes::Bytes>> {
    let sample = probe::sample(device.signature(), batch);
    let [input] = sample.as_slice() else { return Err("the model has more than one input".into()) };
    let Data::Fixed(bytes) = input.to_data() else { return Err("the input is BYTES".into()) };
    let row = bytes.len() / batch;
    Ok((0..batch).map(|index| bytes.slice(index * row..(index + 1) * row)).collect())
}

/// From the requests' bytes into a batch whose memory is used again, through the session, and out as a slice for each.
#[expect(clippy::cast_precision_loss, reason = "counts")]
pub(super) fn through_device(device: &mut Onnx, requests: &[bytes::Bytes], slot: Duration) -> Outcome<Slot> {
    let batch = requests.len();
    let sample = probe::sample(device.signature(), batch).into_iter().next().ok_or("no input")?;
    let row = sample.bytes().len() / batch;
    let values = Values::Own(aligned(row * batch));
    let mut inputs = vec![BatchInput { data_type: sample.data_type, shape: sample.shape, values }];
    let (start, cpu, mut runs, mut busy) = (Instant::now(), cpu_seconds("self")?, 0_usize, Duration::ZERO);
    let mut answered = 0;
    while start.elapsed() < slot {
        let Values::Own(memory) = &mut inputs[0].values else { return Err("no memory".into()) };
        for (place, request) in memory.chunks_exact_mut(row).zip(requests) {
            place.copy_from_slice(request);
        }
        let executed = device.run(&inputs)?;
        busy += executed.infer;
        for row in 0..batch {
            answered += executed.outputs.iter().map(|output| output.rows(row, 1).shape.len()).sum::<usize>();
        }
        runs += 1;
    }
    assert!(answered >= runs * batch, "every row has an answer");
    let wall = start.elapsed().as_secs_f64();
    Ok(Slot { images: (runs * batch) as f64, cpu: cpu_seconds("self")? - cpu, wall, busy: busy.as_secs_f64() })
}

/// User and system time of a process, all threads, in the clock's hundredths of a second.
pub(super) fn cpu_seconds(process: &str) -> Outcome<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name is in brackets and may hold anything.
    let rest = stat.rsplit_once(')').ok_or("no name in stat")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| -> Outcome<f64> { Ok(fields.get(index).ok_or("a short stat")?.parse::<f64>()?) };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
