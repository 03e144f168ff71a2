"""A gRPC client of a node, with no stubs of ours: it learns the messages by server reflection."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from blocks import Unavailable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which server to ask, and who asks."""
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--server-name", metavar="NAME", help="name in the server's certificate, if another")
    parser.add_argument("--ca", type=Path, required=True, help="certificate to believe the server by (PEM)")
    parser.add_argument("--cert", type=Path, required=True, help="our certificate (PEM)")
    parser.add_argument("--key", type=Path, required=True, help="our private key (PEM)")
    parser.add_argument("--deadline", type=float, default=20, metavar="SECONDS", help="for each call; 20")


def connect(args: argparse.Namespace) -> grpc.Channel:
    files = (args.ca, args.key, args.cert)
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
    options = [("grpc.ssl_target_name_override", args.server_name)] if args.server_name else []
    return grpc.secure_channel(args.server, credentials, options)


class Reflected:
    """Calls methods that the server describes."""

    def __init__(self, channel: grpc.Channel, deadline: float):
        self.channel, self.deadline = channel, deadline
        # The first call of all: it says whether the server can be reached.
        try:
            grpc.channel_ready_future(channel).result(deadline)
        except grpc.FutureTimeoutError as error:
            raise Unavailable(f"no connection within {deadline:g} seconds") from error
        self.pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

    def call(self, service: str, method: str, **fields):
        """The answer of a method that gives one."""
        with Failures():
            return self.prepare(self.channel.unary_unary, service, method, fields)

    def stream(self, service: str, method: str, **fields) -> Iterator:
        """The answers of a method that gives many."""
        with Failures():
            yield from self.prepare(self.channel.unary_stream, service, method, fields)

    def prepare(self, kind, service: str, method: str, fields: dict):
        try:
            described = self.pool.FindServiceByName(service).FindMethodByName(method)
        except KeyError as error:
            raise Unavailable(f"server does not describe {service}.{method}") from error
        request, response = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
        call = kind(
            f"/{service}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return call(request(**fields), timeout=self.deadline)


class Failures:
    """Says in one line why a call failed."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind, error, _trace) -> None:
        if isinstance(error, grpc.RpcError):
            raise Unavailable(f"{error.code().name}: {error.details()}") from error
