# headwater as a static binary on an empty image: docker build --tag headwater:0.1.0 .
# With the program nft, for `headwater node`:     docker build --target node --tag headwater-node:0.1.0 .
ARG RUST_VERSION=1.95

FROM rust:${RUST_VERSION}-slim-bookworm AS build
# musl-gcc is for the C in aws-lc, gcc for build scripts and for linking.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev musl-tools ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# `dist` is the profile that is measured. Symbols stay, so that a panic tells where. A binary that asks for a loader
# would not start on an empty image, so it is refused here.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    target="$(uname -m)-unknown-linux-musl" \
    && rustup target add "$target" \
    && TARGET_CC=musl-gcc cargo build --locked --profile dist --package headwater --target "$target" \
    && cp "target/$target/dist/headwater" /headwater \
    && strip --strip-debug /headwater \
    && ! readelf --program-headers --wide /headwater | grep --quiet INTERP

# nft loads the constant rules. It is dynamically linked, so it comes with the distribution that it is tested on.
FROM debian:bookworm-slim AS node
LABEL org.opencontainers.image.title="headwater-node" \
      org.opencontainers.image.description="Services in the kernel, and the client's address kept" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nftables \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /headwater /headwater
# Root, since the capability NET_ADMIN reaches nobody else.
USER 0:0
ENTRYPOINT ["/headwater"]

FROM scratch
LABEL org.opencontainers.image.title="headwater" \
      org.opencontainers.image.description="Kubernetes networking that keeps the client's address" \
      org.opencontainers.image.licenses="Apache-2.0"
# For spec.upstream.tls.verify: SystemRoots.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /headwater /headwater
# No user database is here, so the user is a number: that of nobody in distroless images.
USER 65532:65532
ENTRYPOINT ["/headwater"]
