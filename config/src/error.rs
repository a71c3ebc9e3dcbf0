//! What is wrong with a text: all mistakes at once, each with its key path and its remedy.

use std::fmt;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where, as `ipam.ranges[0][0].subnet`; empty for the document as a whole.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
    /// The CNI error code that fits.
    pub code: u32,
}

/// All mistakes of one document; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    source: String,
    mistakes: Vec<Mistake>,
}

impl ConfigErrors {
    pub(crate) fn new(source: &str, mistakes: Vec<Mistake>) -> Self {
        Self { source: source.to_owned(), mistakes }
    }

    /// The CNI error code: that of the first mistake.
    #[must_use]
    pub fn code(&self) -> u32 {
        self.mistakes.first().map_or(999, |mistake| mistake.code)
    }

    /// Whether the text is right, and asks for plugins that netd does not run.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.mistakes.iter().all(|mistake| mistake.code == 2)
    }

    /// The mistakes, in the order of the text.
    #[must_use]
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.mistakes.iter().map(|mistake| match mistake.path.as_str() {
            "" => format!("{}: {}", self.source, mistake.message),
            path => format!("{}: {path}: {}", self.source, mistake.message),
        });
        f.write_str(&lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| write!(f, "; {line}"))
    }
}

impl std::error::Error for ConfigErrors {}
