# Flow in a container: `flow serve` by default, `flow worker` or `flow migrate` as the command.
ARG PYTHON=3.12
ARG NODE=22

FROM node:${NODE}-slim AS web
WORKDIR /web
COPY flow/web/package.json flow/web/package-lock.json flow/web/.npmrc ./
# `npm install` as in the Makefile: nothing but what the lock holds, by its hashes.
RUN npm install --no-save --no-audit --no-fund
COPY flow/web ./
RUN npm run build

FROM python:${PYTHON}-slim AS build
# Extras to build in, by commas: all vendors' (--build-arg EXTRAS= for none).
ARG EXTRAS=all
ENV UV_LINK_MODE=copy UV_NO_CACHE=1
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY flow flow
COPY supabase supabase
COPY --from=web /web/static flow/web/static
# Nothing is installed or run here whose hash is not in requirements.lock.
RUN sed -n '/^uv==/,/# via/p' requirements.lock > /tmp/uv.lock \
 && python -m pip install --no-cache-dir --require-hashes --requirement /tmp/uv.lock
RUN uv venv /opt/flow \
 && uv pip install --python /opt/flow/bin/python --compile-bytecode --require-hashes \
      --constraint requirements.lock --requirements pyproject.toml \
      $(echo "$EXTRAS" | sed 's/[^,][^,]*/--extra &/g; s/,/ /g') \
 && uv build --wheel --out-dir /tmp/flow --require-hashes --build-constraints requirements.lock \
 && uv pip install --python /opt/flow/bin/python --compile-bytecode --no-deps /tmp/flow/*.whl

FROM python:${PYTHON}-slim
RUN useradd --system --uid 10001 --no-create-home flow \
 && install --directory --owner flow --mode 0700 /var/lib/flow
COPY --from=build /opt/flow /opt/flow
ENV PATH=/opt/flow/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FLOW_HOST=0.0.0.0 \
    FLOW_PORT=8000 \
    FLOW_DATA_DIR=/var/lib/flow
USER 10001
WORKDIR /var/lib/flow
# The spool: usage that the database has not taken yet. It must outlive the process.
VOLUME /var/lib/flow
EXPOSE 8000
# Calls go on after it for FLOW_DRAIN_SECS: give the container that long to stop, and 90 s more.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as http; http.urlopen('http://127.0.0.1:' + os.environ['FLOW_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["flow"]
CMD ["serve"]
