# Two images of one source: `service` (nodes and the ccs command) and `edge` (an application with the edge client in it).
#
#   docker build --target service -t edge-consistency/service:0.1.0 .
#   docker build --target edge -t edge-consistency/edge:0.1.0 .
#
# What is installed is what constraints.txt names, version by version; nothing of the build stays.

FROM python:3.13.7-slim-bookworm AS base
ENV PATH=/opt/ccs/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# One user for every container of ours, so that volumes fit wherever they are mounted.
RUN groupadd --gid 10001 ccs && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin ccs

FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY constraints.txt ./
# Tools go to the system's Python, which stays behind; /opt/ccs has nothing but what runs.
RUN /usr/local/bin/python -m pip install --only-binary :all: -c constraints.txt hatchling setuptools
# These two are published as source alone.
RUN /usr/local/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels -c constraints.txt nkeys pysyncobj
COPY pyproject.toml README.md LICENSE ./
COPY edge_client edge_client
COPY consistency_service consistency_service
RUN /usr/local/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . && python -m venv /opt/ccs

FROM build AS build-service
RUN /opt/ccs/bin/pip install --only-binary :all: -c constraints.txt \
    /wheels/nkeys-*.whl /wheels/pysyncobj-*.whl "$(ls /wheels/edge_consistency-*.whl)[service]"

FROM build AS build-edge
RUN /opt/ccs/bin/pip install --only-binary :all: -c constraints.txt /wheels/nkeys-*.whl /wheels/edge_consistency-*.whl

FROM base AS service
COPY --from=build-service /opt/ccs /opt/ccs
COPY ops/container/healthy.py /app/healthy.py
COPY ops/compose/prepare.py /app/prepare.py
# Empty volumes take their owner from the place where they are mounted first: these, by `prepare`.
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/ccs /secrets \
    /volumes/node-1 /volumes/node-2 /volumes/node-3 /volumes/artifacts \
    /volumes/nats-1 /volumes/nats-2 /volumes/nats-3 \
    /volumes/redis-region /volumes/redis-1 /volumes/redis-2 \
    /volumes/prometheus /volumes/grafana
USER 10001:10001
EXPOSE 8700 8701
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 CMD ["python", "/app/healthy.py"]
ENTRYPOINT ["ccs"]
CMD ["serve"]

FROM base AS edge
COPY --from=build-edge /opt/ccs /opt/ccs
COPY ops/edge/app.py /app/app.py
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=15s --retries=3 CMD ["python", "/app/app.py", "check"]
ENTRYPOINT ["python", "/app/app.py"]
