//! The frames of broadcasts in the encodings that few receivers have.

use std::rc::Rc;

use smallvec::SmallVec;

use crate::{
    broadcast::Job,
    frame::{Encoding, Frame},
};

/// The frames of some broadcasts in each encoding that a receiver has asked for.
#[derive(Default)]
pub(super) struct Encodings(SmallVec<[(Encoding, Vec<Rc<Frame>>); 1]>);

impl Encodings {
    /// The frames in one encoding; made of the broadcasts for the first receiver that has it.
    pub(super) fn frames<'j>(&mut self, encoding: Encoding, jobs: impl Iterator<Item = &'j Job>) -> &[Rc<Frame>] {
        let index = match self.0.iter().position(|(known, _)| *known == encoding) {
            Some(index) => index,
            None => {
                let frames = jobs.flat_map(|job| job.frames_in(encoding)).map(Rc::new).collect();
                self.0.push((encoding, frames));
                self.0.len() - 1
            }
        };
        self.0.get(index).map_or(&[], |(_, frames)| frames)
    }

    /// Adds a broadcast's frames.
    pub(super) fn add(&mut self, job: &Job) {
        for (encoding, frames) in &mut self.0 {
            frames.extend(job.frames_in(*encoding).into_iter().map(Rc::new));
        }
    }

    /// Discards the first frames.
    pub(super) fn discard(&mut self, count: usize) {
        for (_, frames) in &mut self.0 {
            frames.drain(..count);
        }
    }
}
