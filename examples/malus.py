"""A scripted scan: the power behind a polarizer, read by both generations of a meter's driver, and its query."""

from plans import fit_malus, malus
from profiles.session import Session

with Session.open("sim", simulate=True) as session:
    RE, devices = session.RE, session.devices
    RE.md["sample"] = "linear polarizer"
    result = RE(malus([devices.power_v2, devices.power_v4], devices.polarizer, start=0, stop=180, num=19))
    run = session.catalog[result.run_start_uids[0]]
    data = run["primary"].read()
    for meter in ("power_v2", "power_v4"):
        fit = fit_malus(data["polarizer"], data[f"{meter}_power"])
        print(f"{meter}: largest power at {fit.angle_deg:.2f} deg, contrast {fit.contrast:.0f}")
