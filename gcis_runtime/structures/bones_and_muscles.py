"""Names of bones and muscles in four languages, with SNOMED CT codes."""

from __future__ import annotations

TERMS: dict[str, str] = {
    "bone": "bones; skeleton; Knochen; Skelett; os; squelette; hueso; huesos; esqueleto; 272673000",
    "vertebra": (
        "vertebral body; VB; spinal vertebra; Wirbel; Wirbelkörper; vertèbre; corps vertébral; vértebra; "
        "cuerpo vertebral; 51282000"
    ),
    "rib": "costa; Rippe; Rippen; côte; côtes; costilla; costillas; 113197003",
    "rib 1": "48535007",
    "rib 2": "78247007",
    "rib 3": "25888004",
    "rib 4": "25523003",
    "rib 5": "15339008",
    "rib 6": "59558009",
    "rib 7": "24915002",
    "rib 8": "5953002",
    "rib 9": "22565002",
    "rib 10": "77644006",
    "rib 11": "58830002",
    "rib 12": "43993008",
    "vertebra C1": "14806007; atlas",
    "vertebra C2": "39976000",
    "vertebra C3": "113205007",
    "vertebra C4": "5329002",
    "vertebra C5": "36978003",
    "vertebra C6": "36054005",
    "vertebra C7": "87391001",
    "vertebra T1": "64864005",
    "vertebra T2": "53733008",
    "vertebra T3": "1626008",
    "vertebra T4": "73071006",
    "vertebra T5": "56401006",
    "vertebra T6": "45296009",
    "vertebra T7": "62487009",
    "vertebra T8": "11068009",
    "vertebra T9": "82687006",
    "vertebra T10": "7610001",
    "vertebra T11": "12989004",
    "vertebra T12": "23215003",
    "vertebra L1": "66794005",
    "vertebra L2": "14293000",
    "vertebra L3": "36470004",
    "vertebra L4": "11994002",
    "vertebra L5": "49668003",
    "vertebra S1": "65985001",
    "sacrum": "os sacrum; sacral bone; Kreuzbein; Sakrum; sacro; 54735007",
    "sternum": "breastbone; Brustbein; esternón; 56873002",
    "clavicle": (
        "clavicula; collarbone; collar bone; Schlüsselbein; Klavikula; clavicule; clavícula; 51299004"
    ),
    "scapula": "shoulder blade; Schulterblatt; Skapula; omoplate; scapula; escápula; omóplato; 79601000",
    "humerus": "upper arm bone; Oberarmknochen; humérus; húmero; 85050009",
    "femur": "thigh bone; Oberschenkelknochen; fémur; 71341001",
    "femoral head": (
        "Femur_Head; head of the femur; caput femoris; Femurkopf; Hüftkopf; Oberschenkelkopf; tête "
        "fémorale; tête du fémur; cabeza femoral; cabeza del fémur; 2812003"
    ),
    "hip bone": (
        "hip; os coxae; pelvic bone; Hüftbein; Hüftknochen; os iliaque; os coxal; hueso coxal; 29836001"
    ),
    "gluteus maximus muscle": (
        "gluteus maximus; großer Gesäßmuskel; muscle grand fessier; grand fessier; glúteo mayor; 181674001"
    ),
    "gluteus medius muscle": (
        "gluteus medius; mittlerer Gesäßmuskel; muscle moyen fessier; moyen fessier; glúteo medio; 78333006"
    ),
    "gluteus minimus muscle": (
        "gluteus minimus; kleiner Gesäßmuskel; muscle petit fessier; petit fessier; glúteo menor; 75297007"
    ),
    "autochthonous back muscles": (
        "autochthon; deep back muscles; deep muscle of the back; autochthone Rückenmuskulatur; muscles "
        "profonds du dos; músculos profundos de la espalda; 244849004"
    ),
    "iliopsoas muscle": (
        "iliopsoas; Iliopsoas; muscle ilio psoas; psoas iliaque; músculo iliopsoas; psoasilíaco; 68455001"
    ),
}
"""Per structure: aliases separated by semicolons; numbers are SNOMED CT codes. Names may contain a side."""
