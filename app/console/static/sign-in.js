/** The bearer token of this tab: where it comes from and where it stays. */

const KEY = "kikitori.token";

/** The token from `#token=…`, which is taken out of the address bar at once, else the one this tab already had; or null. */
export function takeToken({ location, history, sessionStorage }) {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given !== null) {
    history.replaceState(null, "", location.pathname + location.search);
    keepToken(sessionStorage, given.trim());
  }
  return sessionStorage.getItem(KEY);
}

/** Keep `token` for this tab, until it is closed; null forgets it. */
export function keepToken(sessionStorage, token) {
  if (token === null || token === "") sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, token);
}

/** The clinic a token names, for show only: the server alone decides. Null where it cannot be read. */
export function clinicOf(token) {
  const payload = token.split(".")[1] ?? "";
  try {
    const json = atob(payload.replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(json).clinic_id ?? null;
  } catch {
    return null;
  }
}
