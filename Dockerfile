# syntax=docker/dockerfile:1
# The exporter in an image: nothing in it but Python, what uv.lock names, and us. For linux/amd64 and linux/arm64.
#
#   docker build --tag pgvigil .
#   docker run --read-only --cap-drop ALL -p 9187:9187 -e PGVIGIL_DSN=postgresql://pgvigil@db.example/postgres pgvigil

# What it is built on; a release names it by digest: --build-arg PYTHON=python:3.13-slim-trixie@sha256:...
ARG PYTHON=docker.io/library/python:3.13-slim-trixie

FROM ${PYTHON} AS build
ARG UV=0.13.8
# Optional extras of the package to put in, separated by spaces: all that a server may need.
ARG EXTRAS="aws azure dns google pgbouncer"
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_NO_EDITABLE=1 \
    UV_NO_DEV=1 \
    UV_PROJECT_ENVIRONMENT=/opt/pgvigil \
    UV_PYTHON_DOWNLOADS=never
RUN python -m pip install --no-cache-dir --root-user-action ignore "uv==${UV}"
WORKDIR /src
# What we need comes first, so that a change of ours alone does not fetch it anew.
COPY pyproject.toml uv.lock ./
RUN set -- && for extra in ${EXTRAS}; do set -- "$@" --extra "${extra}"; done && uv sync --locked --no-install-project "$@"
COPY . .
RUN set -- && for extra in ${EXTRAS}; do set -- "$@" --extra "${extra}"; done && uv sync --locked "$@"

FROM ${PYTHON}
ARG PYTHON
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="pgvigil" \
      org.opencontainers.image.description="PostgreSQL exporter for Prometheus" \
      org.opencontainers.image.source="https://github.com/pgvigil/pgvigil" \
      org.opencontainers.image.documentation="https://github.com/pgvigil/pgvigil#readme" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/pgvigil /opt/pgvigil
# The address is a variable here, which wins over a configuration file, so that the health check knows it.
ENV PATH="/opt/pgvigil/bin:${PATH}" \
    PGVIGIL_LISTEN=0.0.0.0:9187
# pip has no work here. Starting once shows that the image is whole, and leaves the bytecode of the standard library,
# which nobody may write later.
RUN /usr/local/bin/python -m pip uninstall --yes --root-user-action ignore pip \
    && useradd --uid 65532 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pgvigil \
    && install --directory --owner=65532 --group=65532 --mode=0700 /var/lib/pgvigil \
    && pgvigil --version
ENV PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
EXPOSE 9187
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["python", "-m", "exporter.commands.alive"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["pgvigil"]
CMD ["serve"]
