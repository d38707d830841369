//! The source of a capture: a file or standard input, compressed by gzip or not.

use std::{
    fs::File,
    io::{self, BufReader, Chain, Cursor, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::bufread::MultiGzDecoder;

/// Bytes per read from the disk, compressed.
const BUFFER: usize = 256 << 10;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Progress of the reading.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    read: Arc<AtomicU64>,
    /// Length of the file, bytes. None: the source is a pipe.
    pub total: Option<u64>,
}

impl Progress {
    /// Bytes read so far, as they are on the disk.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

/// The bytes of a capture, uncompressed.
pub struct Input {
    bytes: Box<dyn Read>,
    progress: Progress,
}

impl Input {
    /// Opens a file. The path `-` is standard input.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    pub fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Self::of(io::stdin(), None);
        }
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Self::of(file, metadata.is_file().then_some(metadata.len()))
    }

    /// Reads from any source of bytes, with `total` bytes.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn of(mut source: impl Read + 'static, total: Option<u64>) -> io::Result<Self> {
        let mut first = [0; 2];
        let mut have = 0;
        while have < first.len() {
            match source.read(&mut first[have..]) {
                Ok(0) => break,
                Ok(read) => have += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let progress = Progress {
            read: Arc::default(),
            total,
        };
        let whole = Counted {
            source: Cursor::new(first[..have].to_vec()).chain(source),
            read: Arc::clone(&progress.read),
        };
        let bytes: Box<dyn Read> = if first == GZIP {
            Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER, whole)))
        } else {
            Box::new(whole)
        };
        Ok(Self { bytes, progress })
    }

    /// A handle to the progress, for other threads.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }
}

impl Read for Input {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(to)
    }
}

/// A reader that counts the bytes that pass.
struct Counted<R> {
    source: Chain<Cursor<Vec<u8>>, R>,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(to)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
