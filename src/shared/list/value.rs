//! Many values to elements and back, with the handles in them.

use std::borrow::Borrow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::carried::{decode_value, handle_list, with_encoded};
use super::List;
use super::core::{Core, Elements};
use crate::codec;
use crate::error::Error;
use crate::segment::{Passed, Storage, into_kept};
use crate::store::ElementDraft;

/// Many values, encoded one after the other.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Where each ends, and whether it carries handles.
    ends: Vec<(usize, bool)>,
    passed: Vec<Passed>,
}

impl Batch {
    fn add<T: Serialize + 'static>(&mut self, core: &Core, value: &T) -> Result<(), Error> {
        let begin = self.bytes.len();
        let mut handles = Vec::new();
        match codec::as_bytes(value) {
            Some(bytes) => self.bytes.extend_from_slice(bytes),
            None => {
                let segment = core.object.segment();
                let (encoded, passed) = into_kept(segment, || codec::encode(value, &mut self.bytes));
                handles = passed.named(segment);
                if passed.count() > 0 {
                    self.passed.push(passed);
                }
                encoded?;
            }
        }
        if !handles.is_empty() {
            let list = handle_list(&handles);
            self.bytes.splice(begin..begin, list);
        }
        self.ends.push((self.bytes.len(), !handles.is_empty()));
        Ok(())
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Gives `f` the elements to be, and tells what the values carry what became of them: `f` says whether they are in.
    pub fn put<R>(
        self,
        core: &Core,
        f: impl FnOnce(Vec<ElementDraft<'_, Storage<'_>>>) -> Result<(bool, R), Error>,
    ) -> Result<R, Error> {
        let (storage, lane) = (core.storage(), core.lane()?);
        let mut begin = 0;
        let mut drafts = Vec::with_capacity(self.ends.len());
        for (end, marked) in &self.ends {
            drafts.push(ElementDraft::new(&storage, lane, &self.bytes[begin..*end], *marked)?);
            begin = *end;
        }
        if self.ends.iter().any(|(_, marked)| *marked) {
            core.mark();
        }
        let done = f(drafts);
        if let Ok((true, _)) = done {
            // The newest first, as they were noted.
            self.passed.into_iter().rev().for_each(|mut passed| passed.sent_in(&core.object));
        }
        done.map(|(_, r)| r)
    }
}

/// The values of elements.
pub(super) fn decode_all<T: DeserializeOwned + 'static>(elements: &Elements) -> Result<Vec<T>, Error> {
    elements.iter().map(|(bytes, marked)| decode_value(bytes, marked)).collect()
}

impl<T: Serialize + DeserializeOwned + 'static> List<T> {
    /// Gives `f` the encoding of a value, and whether handles stand before it. It says whether the value is in now.
    #[inline]
    pub(super) fn encoded<R>(
        &self,
        value: &T,
        f: impl FnOnce(&[u8], bool) -> Result<(bool, R), Error>,
    ) -> Result<R, Error> {
        if let Some(bytes) = codec::as_bytes(value) {
            return f(bytes, false).map(|(_, r)| r);
        }
        with_encoded(&self.core.object, |_| (), value, f)
    }

    /// Encodes many values.
    pub(super) fn batch(&self, values: impl IntoIterator<Item: Borrow<T>>) -> Result<Batch, Error> {
        let mut batch = Batch::default();
        values.into_iter().try_for_each(|value| batch.add(&self.core, value.borrow()))?;
        Ok(batch)
    }

    /// All values as one moment had them, and the changes up to it.
    pub(super) fn values(&self) -> Result<(Vec<T>, u64), Error> {
        let elements = self.core.read(self.deadline(), &|len| 0..len)?;
        Ok((decode_all(&elements)?, elements.changes))
    }
}
