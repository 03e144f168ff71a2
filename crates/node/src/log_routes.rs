//! What a node serves to everybody over HTTPS: its log (C2SP tlog-tiles), and its co-signatures
//! (tlog-witness) to whoever brings a log's signed checkpoint. All routes of that port are put together here.

use crate::{tile_routes, tile_routes::TileServer, witness::Witness, witness_routes};
use std::sync::Arc;
use tonic::service::Routes;

pub(crate) fn routes(tiles: TileServer, witness: Arc<Witness>) -> Routes {
    tile_routes::routes(tiles)
        .merge(witness_routes::routes(witness))
        .into()
}
