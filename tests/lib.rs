//! What the integration tests share. Empty for as long as no two of them share anything.

#![deny(unsafe_code)]
