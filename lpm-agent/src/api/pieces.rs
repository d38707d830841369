//! Bodies of responses in pieces that are freed one by one.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use crate::export::http::{HttpCounts, HttpRefusal};

/// Bytes of a piece. The C library maps pieces of this size for themselves, so a freed one goes
/// back to the kernel.
const PIECE: usize = 128 << 10;

/// The bytes of a response, which several clients may be reading. A client that is slow keeps one
/// piece in memory, not the whole.
#[derive(Debug)]
pub(super) struct Pieces {
    length: usize,
    /// `None`: given up.
    pieces: Mutex<Option<Vec<Bytes>>>,
}

impl Pieces {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let pieces = bytes.chunks(PIECE).map(Bytes::copy_from_slice);
        Self {
            length: bytes.len(),
            pieces: Mutex::new(Some(pieces.collect())),
        }
    }

    /// Frees the pieces. Whoever is still reading is cut off.
    pub(super) fn give_up(&self) {
        *self.pieces() = None;
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.pieces().is_none()
    }

    /// All bytes together. `None`: given up.
    pub(super) fn whole(&self) -> Option<Vec<u8>> {
        self.pieces().as_ref().map(|pieces| pieces.concat())
    }

    /// A piece by its number. An error: given up.
    fn piece(&self, number: usize) -> io::Result<Option<Bytes>> {
        match &*self.pieces() {
            Some(pieces) => Ok(pieces.get(number).cloned()),
            None => Err(io::Error::other("slow clients held too many pages")),
        }
    }

    fn pieces(&self) -> MutexGuard<'_, Option<Vec<Bytes>>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that hands out pieces.
pub(super) struct PiecesBody {
    pieces: Arc<Pieces>,
    next: usize,
    left: usize,
    counts: Arc<HttpCounts>,
    /// A permit that is kept until the body has been handed over.
    _permit: Option<OwnedSemaphorePermit>,
}

impl PiecesBody {
    /// Makes a body of these pieces.
    pub(super) fn body(
        pieces: Arc<Pieces>,
        counts: Arc<HttpCounts>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Body {
        Body::new(Self {
            left: pieces.length,
            pieces,
            next: 0,
            counts,
            _permit: permit,
        })
    }
}

impl HttpBody for PiecesBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = self.pieces.piece(self.next);
        match &piece {
            Ok(piece) => {
                self.next += 1;
                self.left -= piece.as_ref().map_or(0, Bytes::len);
            }
            Err(_) => self.counts.refuse(HttpRefusal::Page),
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn the_pieces_are_the_whole() {
        for length in [0, 1, PIECE, PIECE + 1, 5 * PIECE] {
            let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
            let pieces = Arc::new(Pieces::new(&bytes));
            let body = PiecesBody::body(Arc::clone(&pieces), Arc::default(), None);
            assert_eq!(body.size_hint().exact(), Some(length as u64));
            let read = to_bytes(body, usize::MAX).await.expect("a body");
            assert_eq!(read, bytes);
            assert_eq!(pieces.whole(), Some(bytes));
        }
    }

    #[tokio::test]
    async fn who_reads_what_is_given_up_is_cut_off() {
        let pieces = Arc::new(Pieces::new(&vec![7; 3 * PIECE]));
        let counts = Arc::<HttpCounts>::default();
        let mut body = PiecesBody::body(Arc::clone(&pieces), Arc::clone(&counts), None);
        assert!(body.frame().await.expect("a frame").is_ok());
        pieces.give_up();
        assert!(body.frame().await.expect("an end").is_err());
        assert_eq!(counts.refused(HttpRefusal::Page), 1);
        assert!(pieces.is_given_up() && pieces.whole().is_none());
    }
}
