FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
COPY requirements/runtime.txt /tmp/runtime.txt
# Wheels only: neither stage has a compiler.
RUN /opt/venv/bin/pip install --require-hashes --only-binary :all: -r /tmp/runtime.txt

FROM python:3.11-slim
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    KIKITORI_HOST=0.0.0.0 KIKITORI_PORT=8080 KIKITORI_DATA_DIR=/var/lib/kikitori
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin kikitori \
    && install -d -o kikitori -g kikitori -m 0700 /var/lib/kikitori
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv/kikitori
COPY app app
COPY audio audio
COPY tenants tenants
USER kikitori
VOLUME /var/lib/kikitori
# 8080 serves clinics, 9464 metrics (bound to loopback unless KIKITORI_ADMIN_HOST says otherwise).
EXPOSE 8080 9464
# SIGTERM drains: speakers are told to come back elsewhere before the process ends.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"KIKITORI_PORT\"]}/healthz', timeout=2)"]
# Beyond loopback the development issuer is refused: give KIKITORI_OIDC_ISSUER, and KIKITORI_REDIS_URL for more than one task.
ENTRYPOINT ["python", "-m", "app"]
CMD ["serve"]
