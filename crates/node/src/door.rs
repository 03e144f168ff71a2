//! The TLS end of a port: lets clients in, and breaks the connections of those who are no longer let in.

use crate::{tls::Tls, tls_trust::ClientTrust};
use anyhow::Result;
use rustls_pki_types::CertificateDer;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};

/// Lets clients in.
#[derive(Clone)]
pub(crate) struct Door {
    tls: TlsAcceptor,
    clients: Arc<ClientTrust>,
}

/// A client's connection. It breaks when the client is no longer let in.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Ends the task that watches over the connection.
    _open: DropGuard,
}

impl Door {
    pub(crate) fn new(tls: &Tls, clients: Arc<ClientTrust>) -> Result<Self> {
        let server = tls.server(Arc::clone(&clients))?;
        Ok(Self {
            tls: TlsAcceptor::from(server),
            clients,
        })
    }

    /// Shakes hands.
    pub(crate) async fn open(&self, stream: TcpStream) -> io::Result<Connection> {
        let stream = self.tls.accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Vec<CertificateDer<'static>> = chain.to_vec();
        // A session that is resumed shows the certificate of when it began.
        if !self.clients.accepts(&chain) {
            return Err(io::Error::other("its certificate is no longer accepted"));
        }
        let (cut, open) = (CancellationToken::new(), CancellationToken::new());
        let (clients, cutting, closed) = (Arc::clone(&self.clients), cut.clone(), open.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = clients.refuses(&chain) => cutting.cancel(),
                () = closed.cancelled() => (),
            }
        });
        Ok(Connection {
            stream,
            cut: Box::pin(cut.cancelled_owned()),
            _open: open.drop_guard(),
        })
    }
}

impl Connection {
    fn check(&mut self, cx: &mut task::Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = TlsConnectInfo<TcpConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}
