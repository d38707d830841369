//! The latency probe of every packet: parser, matcher, buckets and map layouts.
#![no_std]
#![forbid(unsafe_code)]
