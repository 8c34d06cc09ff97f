//! The frames of broadcasts in the encodings that few receivers have.

use std::rc::Rc;

use crate::delivery::{
    frame::{Encoding, Frame},
    job::Job,
};

/// The frames of some broadcasts in each encoding that a receiver has asked for.
#[derive(Default)]
pub(super) struct Encodings {
    /// The encoding of the last receiver: most receivers have the same one.
    last: Option<(Encoding, Vec<Rc<Frame>>)>,
    others: Vec<(Encoding, Vec<Rc<Frame>>)>,
}

impl Encodings {
    /// The frames in one encoding; made of the broadcasts for the first receiver that has it.
    #[inline]
    pub(super) fn frames<'j>(&mut self, encoding: Encoding, jobs: impl Iterator<Item = &'j Job>) -> &[Rc<Frame>] {
        if !matches!(&self.last, Some((last, _)) if *last == encoding) {
            self.change_to(encoding, jobs);
        }
        self.last.as_ref().map_or(&[], |(_, frames)| frames)
    }

    #[cold]
    fn change_to<'j>(&mut self, encoding: Encoding, jobs: impl Iterator<Item = &'j Job>) {
        self.others.extend(self.last.take());
        let known = self.others.iter().position(|(known, _)| *known == encoding);
        self.last = Some(match known {
            Some(index) => self.others.swap_remove(index),
            None => (encoding, jobs.flat_map(|job| job.frames_in(encoding)).map(Rc::new).collect()),
        });
    }

    /// Adds a broadcast's frames.
    pub(super) fn add(&mut self, job: &Job) {
        for (encoding, frames) in self.last.iter_mut().chain(&mut self.others) {
            frames.extend(job.frames_in(*encoding).into_iter().map(Rc::new));
        }
    }

    /// Discards the first frames.
    pub(super) fn discard(&mut self, count: usize) {
        for (_, frames) in self.last.iter_mut().chain(&mut self.others) {
            frames.drain(..count);
        }
    }
}
