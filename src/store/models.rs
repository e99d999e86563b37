#![cfg(all(test, loom))]
