# syntax=docker/dockerfile:1
# The server in a slim image that runs as nobody in particular.
#
#   docker build -t quorate .
#   docker run --rm -p 127.0.0.1:7400:7400 -v quorate-data:/var/lib/quorate \
#       -e QUORATE_NODE__CLIENT_LISTEN=0.0.0.0:7400 -e QUORATE_NODE__INSECURE=true quorate      # to try it
#   docker compose -f config/compose.yaml up --build                                           # three nodes, a secret
#
# Dependencies are built in a layer of their own, from the manifests alone: RocksDB's eight minutes are spent again only
# when Cargo.lock changes.

FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libclang-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
# Stand-ins for the package's own code, so that cargo builds what it depends on. Tests, benches and examples are not
# in the image: what the manifest says of them is cut out.
RUN mkdir -p src \
    && echo '#![allow(missing_docs)]' > src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && sed -E -i '/^\[\[(bench|test|example)\]\]/,/^$/d' Cargo.toml \
    && cargo build --release --locked --bin quorate \
    && rm -rf src Cargo.toml
COPY Cargo.toml ./
COPY src src
COPY data data
COPY config/quorate.toml config/quorate.toml
# Newer than the stand-ins, or cargo takes those for up to date.
RUN sed -E -i '/^\[\[(bench|test|example)\]\]/,/^$/d' Cargo.toml \
    && find src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --bin quorate \
    && strip --strip-debug target/release/quorate

FROM debian:bookworm-slim
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="quorate" \
      org.opencontainers.image.description="A leaderless, Dynamo-style quorum database" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# RocksDB is linked in; what it needs at run time is the C++ library. curl asks the health check. Nothing here speaks TLS,
# so there are no certificates.
RUN apt-get update \
    && apt-get install -y --no-install-recommends curl libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/quorate --shell /usr/sbin/nologin quorate \
    && install -d -o quorate -g quorate -m 0750 /var/lib/quorate \
    && install -d /etc/quorate
COPY --from=build /src/target/release/quorate /usr/local/bin/quorate
COPY config/quorate.toml /etc/quorate/quorate.toml
COPY LICENSE /usr/share/doc/quorate/LICENSE
USER quorate
WORKDIR /var/lib/quorate
# The listeners stay on the container's loopback until a configuration with a secret opens them: mount your own over
# /etc/quorate/quorate.toml (config/node1.toml is an example), or set QUORATE_... variables.
ENV QUORATE_NODE__DATA_DIR=/var/lib/quorate
VOLUME /var/lib/quorate
EXPOSE 7400 7401 7402
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=2s --start-period=30s --retries=3 \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:7401/readyz"]
ENTRYPOINT ["quorate"]
CMD ["server", "--config", "/etc/quorate/quorate.toml"]
