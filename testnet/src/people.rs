use crate::{Home, Network};
use anyhow::Result;

/// Those who use a network in a run.
pub(crate) struct People {
    /// Operator of the first hospital.
    pub(crate) operator: Home,
    pub(crate) device: Home,
    pub(crate) clinician: Home,
    /// A patient's custody key.
    pub(crate) custody: String,
}

impl People {
    /// Lets them in.
    pub(crate) fn enrol(network: &Network) -> Result<Self> {
        let operator = network.operator(0)?;
        let device = network.invite(0, "device")?;
        let clinician = network.invite(0, "clinician")?;
        for (kind, who, role) in [
            ("device", &device, "device"),
            ("person", &clinician, "clinician"),
        ] {
            let did = who.run(["key", "show"])?.success()?.text("did")?;
            operator
                .run([kind, "enrol", &did, "--role", role])?
                .success()?;
        }
        let made = operator.run(["custody", "new", "--kind", "person"])?;
        let custody = made.success()?.text("custody")?;
        Ok(Self {
            operator,
            device,
            clinician,
            custody,
        })
    }
}
