mod backend;
mod cluster;
mod codec;
mod disk;
mod network;
mod server;
mod store;
