//! The calls that a pool and its handles have in common.

/// Methods for the `impl` blocks of what has a `source: Source`. Each has its own `apply_async`, whose documentation tells when
/// it waits.
macro_rules! calls {
    () => {
        /// Calls `function` with `args` in a worker, and waits for the result.
        ///
        /// # Errors
        /// [`TaskError`] tells why there is none.
        ///
        /// Python: `apply(f, args)`.
        pub fn apply<F, A, R>(&self, function: F, args: A) -> Result<R, TaskError>
        where
            F: Function<A, R>,
            A: Serialize + DeserializeOwned + Send + Sync + 'static,
            R: Serialize + DeserializeOwned + Send + 'static,
        {
            self.apply_async(function, args)?.get()
        }

        /// A task for which more is to be agreed: callbacks, which run in this process, retries, a time limit.
        pub fn job<F, A, R>(&self, function: F, args: A) -> Job<'_, F, A, R>
        where
            F: Function<A, R>,
            A: Serialize + DeserializeOwned + Send + Sync + 'static,
            R: Serialize + DeserializeOwned + Send + 'static,
        {
            Job::new(&self.source, function, args)
        }

        /// How functions are to be applied to many items: in chunks of which size, how far ahead, with which progress.
        pub fn mapping(&self) -> Mapping<'_> {
            Mapping::new(&self.source)
        }

        /// Applies `function` to all items: see [`Mapping::map`].
        ///
        /// # Errors
        /// As [`Mapping::map`].
        #[doc(alias = "starmap")]
        pub fn map<F, A, R>(&self, function: F, items: impl IntoIterator<Item = A>) -> Result<Vec<R>, TaskError>
        where
            F: Function<A, R>,
            A: Serialize + DeserializeOwned + Send + Sync + 'static,
            R: Serialize + DeserializeOwned + Send + 'static,
        {
            self.mapping().map(function, items)
        }

        /// Has `function` applied to all items: see [`Mapping::map_async`].
        ///
        /// # Errors
        /// As [`Mapping::map_async`].
        #[doc(alias = "starmap_async")]
        pub fn map_async<F, A, R>(
            &self,
            function: F,
            items: impl IntoIterator<Item = A>,
        ) -> Result<Task<Vec<R>>, TaskError>
        where
            F: Function<A, R>,
            A: Serialize + DeserializeOwned + Send + Sync + 'static,
            R: Serialize + DeserializeOwned + Send + 'static,
        {
            self.mapping().map_async(function, items)
        }

        /// Applies `function` to the items one after the other: see [`Mapping::imap`].
        ///
        /// # Errors
        /// As [`Mapping::imap`].
        ///
        /// # Panics
        /// As [`Mapping::imap`].
        pub fn imap<F, A, R, I>(&self, function: F, items: I) -> Imap<'_, I::IntoIter, A, R>
        where
            F: Function<A, R>,
            A: Serialize + DeserializeOwned + Send + Sync + 'static,
            R: Serialize + DeserializeOwned + Send + 'static,
            I: IntoIterator<Item = A>,
        {
            self.mapping().imap(function, items)
        }

        /// As [`imap`](Self::imap), with the results in the order in which they come.
        ///
        /// # Errors
        /// As [`Mapping::imap`].
        ///
        /// # Panics
        /// As [`Mapping::imap`].
        pub fn imap_unordered<F, A, R, I>(&self, function: F, items: I) -> Imap<'_, I::IntoIter, A, R>
        where
            F: Function<A, R>,
            A: Serialize + DeserializeOwned + Send + Sync + 'static,
            R: Serialize + DeserializeOwned + Send + 'static,
            I: IntoIterator<Item = A>,
        {
            self.mapping().imap_unordered(function, items)
        }
    };
}

pub(super) use calls;
