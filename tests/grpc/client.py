"""Calls helloworld.Greeter with grpcio: what a client in another language sees. Prints a line a check; 1 on failure."""

import sys
import threading

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

address = sys.argv[1]
failed = 0


def check(name, ok, seen=""):
    global failed
    print(f"{'ok    ' if ok else 'FAILED'} {name}{'' if ok else f': {seen}'}")
    failed += not ok


channel = grpc.insecure_channel(address)
grpc.channel_ready_future(channel).result(timeout=20)

# Messages as reflection describes them: no generated code stands between.
pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
names = ProtoReflectionDescriptorDatabase(channel).get_services()
check("reflection lists the services", {"helloworld.Greeter", "grpc.health.v1.Health"} <= set(names), names)
service = pool.FindServiceByName("helloworld.Greeter")
methods = {method.name: method for method in service.methods}
check("reflection describes the methods", set(methods) == {"SayHello", "SayHelloStreamReply", "SayHelloBidiStream", "GreetAll"}, list(methods))


def message(descriptor):
    return message_factory.GetMessageClass(descriptor)


request, reply = (message(kind) for kind in (methods["SayHello"].input_type, methods["SayHello"].output_type))
say_hello = channel.unary_unary(
    "/helloworld.Greeter/SayHello",
    request_serializer=request.SerializeToString,
    response_deserializer=reply.FromString,
)
stream = channel.unary_stream(
    "/helloworld.Greeter/SayHelloStreamReply",
    request_serializer=message(methods["SayHelloStreamReply"].input_type).SerializeToString,
    response_deserializer=message(methods["SayHelloStreamReply"].output_type).FromString,
)

check("a unary call", say_hello(request(name="you"), timeout=10).message == "Hello you")
check("letters of every kind", say_hello(request(name="Zoë ☂"), timeout=10).message == "Hello Zoë ☂")
check("a stream", [r.message for r in stream(request(name="you"), timeout=10)] == ["Hello you"] * 10)

item = message(methods["SayHelloBidiStream"].input_type)
both = channel.stream_stream(
    "/helloworld.Greeter/SayHelloBidiStream",
    request_serializer=item.SerializeToString,
    response_deserializer=reply.FromString,
)
part = message(methods["GreetAll"].input_type)
to_all = channel.stream_unary(
    "/helloworld.Greeter/GreetAll",
    request_serializer=part.SerializeToString,
    response_deserializer=reply.FromString,
)
names = ["Ann", "Bob", "Cy"] * 100
said = [r.message for r in both((item(value=name) for name in names), timeout=20)]
check("a two-way stream", said == [f"Hello {name}" for name in names], said[:3])
parts = [part(params={"greeting": "Hi"})] + [part(item={"value": name}) for name in names[:3]]
said = to_all(iter(parts), timeout=10).message
check("a stream of the client, with parameters", said == "Hi Ann, Bob, Cy", said)


def code(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return None, ""


seen = code(lambda: say_hello(request(), timeout=10))
check("a typed error has its code", seen[0] == grpc.StatusCode.INVALID_ARGUMENT, seen)
seen = code(lambda: list(stream(request(), timeout=10)))
check("a typed error of a stream", seen[0] == grpc.StatusCode.INVALID_ARGUMENT, seen)
seen = code(lambda: to_all(iter(parts[1:]), timeout=10))
check("a stream without its parameters", seen[0] == grpc.StatusCode.INVALID_ARGUMENT and "params" in seen[1], seen)
seen = code(lambda: list(both(iter([item(value="Ann"), item()]), timeout=10)))
check("a two-way stream that fails", seen[0] == grpc.StatusCode.INVALID_ARGUMENT, seen)
raw = channel.unary_unary("/helloworld.Greeter/SayHelo")
seen = code(lambda: raw(b"", timeout=10))
check("an unknown method", seen[0] == grpc.StatusCode.UNIMPLEMENTED and "SayHello" in seen[1], seen)
seen = code(lambda: channel.unary_unary("/helloworld.Greter/SayHello")(b"", timeout=10))
check("an unknown service", seen[0] == grpc.StatusCode.NOT_FOUND and "helloworld.Greeter" in seen[1], seen)
seen = code(lambda: channel.unary_unary("/helloworld.Greeter/SayHello")(b"\xff\xff", timeout=10))
check("a message that is none", seen[0] == grpc.StatusCode.INVALID_ARGUMENT, seen)
seen = code(lambda: channel.unary_unary("/afflux.node/Info")(b"", timeout=10))
check("the framework's own services are closed", seen[0] == grpc.StatusCode.PERMISSION_DENIED, seen)
big = request(name="x" * (5 << 20))
seen = code(lambda: say_hello(big, timeout=10))
check("a message beyond the limit", seen[0] == grpc.StatusCode.RESOURCE_EXHAUSTED, seen)
check("and the connection goes on", say_hello(request(name="you"), timeout=10).message == "Hello you")

futures = [say_hello.future(request(name=str(n)), timeout=30) for n in range(500)]
check("500 in flight", [f.result().message for f in futures] == [f"Hello {n}" for n in range(500)])

call = stream(request(name="you"))
next(call)
call.cancel()
seen = code(lambda: list(call))
check("a stream that is cancelled", seen[0] == grpc.StatusCode.CANCELLED, seen)

health = health_pb2_grpc.HealthStub(channel)
serving = health_pb2.HealthCheckResponse.SERVING
check("health of the server", health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == serving)
asked = health_pb2.HealthCheckRequest(service="helloworld.Greeter")
check("health of a service", health.Check(asked, timeout=10).status == serving)
seen = code(lambda: health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=10))
check("health of nobody", seen[0] == grpc.StatusCode.NOT_FOUND, seen)
watch = health.Watch(asked, timeout=10)
check("health that is watched", next(watch).status == serving)
watch.cancel()

channel.close()
sys.exit(1 if failed else 0)
