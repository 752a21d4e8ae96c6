# A program of this workspace as an image: one static binary in an empty root, not root, 65532 as the chart has it.
#
#   docker build -t afflux/flights:0.1.0 .
#   docker build -t shop:1.4.0 --build-arg PACKAGE=shop --build-arg BIN=shop .
FROM docker.io/library/rust:1.95-alpine AS build
# A C compiler for the allocator, mimalloc.
# Python writes what the program is made of.
RUN apk add --no-cache musl-dev gcc g++ make python3
WORKDIR /afflux
COPY . .
ARG PACKAGE=afflux-flights
ARG BIN=flights
ARG FEATURES=kubernetes,s3
# musl's target is static by itself.
RUN cargo build --profile image --locked -p "$PACKAGE" --bin "$BIN" --features "$FEATURES" \
 && cp "target/image/$BIN" /app \
 && python3 tests/image/sbom.py "$PACKAGE" "$FEATURES" "$(rustc -vV | sed -n 's/^host: //p')" > /sbom.cdx.json

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="afflux" \
      org.opencontainers.image.description="A node of an Afflux cluster." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/afflux/afflux" \
      org.opencontainers.image.documentation="https://github.com/afflux/afflux/blob/main/docs/book/deploy.md" \
      org.opencontainers.image.vendor="Afflux" \
      org.opencontainers.image.base.name="scratch" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /app /app
# Every crate that is linked into it, with licence and checksum: CycloneDX.
COPY --from=build /sbom.cdx.json /usr/share/sbom/app.cdx.json
# Certificates of public authorities, for buckets.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# What the pipelines of services/flights read; a program of your own needs none of it.
COPY services/flights/data /afflux/services/flights/data
# Without huge pages a small node has half the memory; one with large state in memory is some percent faster with them (1).
ENV MIMALLOC_ALLOW_THP=0
USER 65532:65532
ENTRYPOINT ["/app"]
CMD ["node"]
