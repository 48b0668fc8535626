# oncecast producer and oncecast listener. The working folder has the files of the process (journal.db, failed_events.log).
FROM python:3.13-slim AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY src ./src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir dist . \
    && python -m venv --without-pip /opt/oncecast \
    && pip --python /opt/oncecast install --no-cache-dir "$(echo dist/*.whl)[fast,pydantic,rabbitmq,sqs]"

FROM python:3.13-slim
RUN groupadd --gid 10001 oncecast \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/oncecast --shell /usr/sbin/nologin oncecast \
    && install --directory --mode 0750 --owner oncecast --group oncecast /var/lib/oncecast
COPY --from=build /opt/oncecast /opt/oncecast
ENV PATH=/opt/oncecast/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/oncecast
VOLUME /var/lib/oncecast
EXPOSE 8080 3001

# Liveness, not readiness: a listener whose PostgreSQL is down keeps its events and needs no restart. A listener that
# waits for PostgreSQL at its first start does not answer, for up to two minutes. The request uses no proxy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; face = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT', 8080)), timeout=3); face.request('GET', '/livez'); sys.exit(face.getresponse().status != 200)"]

ENTRYPOINT ["oncecast"]
CMD ["--help"]
