//! Interning: one copy of each text that many names share.

use std::{collections::HashSet, sync::Arc};

use crate::text::cut;

/// With fewer texts than this, none is thrown away.
const FEW: usize = 1024;

/// Holds one shared copy of each text.
#[derive(Debug, Default)]
pub(super) struct Interner {
    known: HashSet<Arc<str>>,
    look_at: usize,
}

impl Interner {
    /// The shared copy of a name, which is cut if it is longer than any may be.
    pub(super) fn share(&mut self, text: &str) -> Arc<str> {
        let text = cut(text);
        if let Some(known) = self.known.get(text) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.look_at.max(FEW) {
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.look_at = 2 * self.known.len();
        }
        let text: Arc<str> = text.into();
        self.known.insert(Arc::clone(&text));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_shared_while_somebody_has_them() {
        let mut texts = Interner::default();
        let first = texts.share("shop");
        assert!(Arc::ptr_eq(&first, &texts.share("shop")));
        for number in 0..3 * FEW {
            texts.share(&number.to_string());
        }
        assert!(texts.known.len() <= FEW + 1, "{}", texts.known.len());
        assert!(Arc::ptr_eq(&first, &texts.share("shop")));
        assert_eq!(texts.share(&"x".repeat(70_000)).len(), 253);
    }
}
