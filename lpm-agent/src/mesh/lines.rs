//! Lines of JSON, as one agent sends them to another.

use std::{fmt::Display, marker::PhantomData, sync::Arc};

use serde::de::DeserializeOwned;

use super::Trouble;

/// Most bytes of a line. A node has some hundred pods.
const LONGEST: usize = 4 << 20;

/// A line of a stream, in a version.
pub(crate) trait MeshLine: DeserializeOwned {
    /// Version of the lines. An agent refuses the lines of another version.
    const SCHEMA: u32;

    /// The version that the line states.
    fn schema(&self) -> u32;

    /// The node of the agent that sent it.
    fn node(&self) -> &Arc<str>;

    /// Checks that the line is not more than an agent may say.
    ///
    /// # Errors
    /// What there is too much of.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Assembles lines from pieces.
#[derive(Debug)]
pub(crate) struct Lines<L> {
    begun: Vec<u8>,
    lines: PhantomData<L>,
}

impl<L> Default for Lines<L> {
    fn default() -> Self {
        Self {
            begun: Vec::new(),
            lines: PhantomData,
        }
    }
}

impl<L: MeshLine> Lines<L> {
    /// Adds a piece. Returns the lines that it completes.
    pub(crate) fn take(&mut self, data: &[u8]) -> Result<Vec<L>, Trouble> {
        let mut lines = Vec::new();
        let mut pieces = data.split(|byte| *byte == b'\n');
        let mut piece = pieces.next().unwrap_or_default();
        for next in pieces {
            self.add(piece)?;
            lines.push(read(&self.begun)?);
            self.begun.clear();
            piece = next;
        }
        self.add(piece)?;
        Ok(lines)
    }

    /// Adds a piece without a line feed.
    fn add(&mut self, piece: &[u8]) -> Result<(), Trouble> {
        if self.begun.len() + piece.len() > LONGEST {
            let why = format!("a line is longer than {LONGEST} bytes");
            return Err(Trouble::Excessive(why));
        }
        self.begun.extend_from_slice(piece);
        Ok(())
    }
}

fn read<L: MeshLine>(text: &[u8]) -> Result<L, Trouble> {
    let unreadable = |error: &dyn Display| Trouble::Unreadable(error.to_string());
    let line: L = serde_json::from_slice(text).map_err(|error| unreadable(&error))?;
    if line.schema() != L::SCHEMA {
        return Err(unreadable(&format!("it sends schema {}", line.schema())));
    }
    line.check().map_err(Trouble::Excessive)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Line {
        schema: u32,
        node: Arc<str>,
    }

    impl MeshLine for Line {
        const SCHEMA: u32 = 1;

        fn schema(&self) -> u32 {
            self.schema
        }

        fn node(&self) -> &Arc<str> {
            &self.node
        }
    }

    type Lines = super::Lines<Line>;

    #[test]
    fn lines_come_in_pieces() {
        let text = b"{\"schema\":1,\"node\":\"a\"}\n{\"schema\":1,\"node\":\"b\",\"all\":[]}\n";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut found = lines.take(&text[..cut]).expect("a piece");
            found.extend(lines.take(&text[cut..]).expect("the rest"));
            let nodes: Vec<_> = found.iter().map(|line| &*line.node).collect();
            assert_eq!(nodes, ["a", "b"], "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_line_is_said_so() {
        for text in [&b"{\n"[..], b"{\"schema\":2,\"node\":\"a\"}\n", b"\n"] {
            let error = Lines::default().take(text).expect_err("no line");
            assert_eq!(error.reason(), "unreadable");
        }
        let endless = vec![b'x'; LONGEST + 1];
        let error = Lines::default().take(&endless).expect_err("too long");
        assert_eq!(error.reason(), "excessive");
        let mut lines = Lines::default();
        lines.take(&endless[..LONGEST]).expect("a beginning");
        let error = lines.take(b"x\n").expect_err("too long");
        assert_eq!(error.reason(), "excessive", "also where its end comes");
    }
}
