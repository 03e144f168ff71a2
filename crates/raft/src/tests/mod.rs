mod backend;
mod cluster;
mod codec;
mod disk;
mod members;
mod network;
mod server;
mod store;
